// What an instruction set has to provide, and the data layouts its functions share.
//
// The fast resampler works on strips of `lanes` source rows. A strip is turned so that one vector holds, for
// every row of the strip, `taps` neighbouring pixels of one channel in four bytes: products of bytes, or of words,
// then sum the taps of all rows at once, with the same weights for every lane and no shuffling per output pixel.
// The horizontal pass leaves its pixels in groups of `taps` rows, four bytes a column, which is the same form for
// the vertical pass.
#pragma once

#include <cstddef>
#include <cstdint>

#include "picture/image_view.h"

namespace rar {

// Most rows any instruction set takes in a strip, and the width padding that suits all of them.
constexpr int kMaxLanes = 16;
constexpr std::int64_t kWidthStep = 16;
constexpr int kGroupBytes = 4;
constexpr int kMaxTaps = 4;
constexpr int kMinTaps = 2;

// Weights of one axis in the form of one instruction set. Taps stand in groups of `taps`, aligned to the first
// source pixel that is needed at all; a group is `words` 32-bit words long.
struct PackedWeights {
    const std::int32_t* first_group;  // per output pixel, counted from the first source pixel needed
    const std::int64_t* offsets;      // of its groups in `words`; one more than output pixels
    const std::uint32_t* words;
};

enum class PixelType { kUint8, kFloat32, kFloat16 };

// The float32 steps of normalisation, per channel.
struct Scaling {
    float mean[kChannels];
    float std[kChannels];
    float inverse_std[kChannels];
    float inverse_rest[kChannels];  // 1 / std - inverse_std
    // Whether multiplying by an inverse in two parts equals the division for all 256 values.
    bool inverse_is_exact;
};

// 1 / 255 in two parts.
constexpr float kUnit = 1.0f / 255.0f;
constexpr float kUnitRest = static_cast<float>(1.0 / 255.0 - static_cast<double>(kUnit));

// One row of a result: uint8 RGB at channel[0], or one plane a channel.
struct RowTarget {
    void* channel[kChannels];
    PixelType type;
    const Scaling* scaling;  // not for uint8
    // Past the caches: float planes that start at a cache line, in results too large to be still there when read.
    bool streamed;
};

// One pass of a box filter of fractional radius, in 24-bit fixed point: whole pixels up to `radius` away weigh
// `inner`, the next one on either side `outer`.
struct BoxWeights {
    std::int64_t radius;
    std::uint32_t inner;
    std::uint32_t outer;
};

// Runs it along kLines lines of `count` positions, which lie side by side: [position][line].
constexpr int kLines = 96;
using BoxPass = void (*)(const std::uint8_t* in, std::uint8_t* out, std::int64_t count, const BoxWeights& weights);

struct Kernels {
    const char* name;
    int lanes;  // source rows in a strip, a multiple of `taps`
    int taps;   // of a group, which has kGroupBytes: four bytes, or two words
    int words;  // 32-bit words of a packed group of weights

    void (*pack_weights)(const std::int32_t* weights, std::uint32_t* words);

    // Turns `lanes` rows of `pixels` packed RGB pixels to [pixel group][channel][lane] of kGroupBytes. Reads
    // nothing beyond the pixels; the last group is completed with zeros.
    void (*turn)(const std::uint8_t* const* rows, std::int64_t pixels, std::uint8_t* strip);

    // Resizes a strip along x to `width` columns a channel, a multiple of kWidthStep. The rth `taps` rows go to
    // groups[r] as [channel][column] of kGroupBytes.
    void (*horizontal)(const std::uint8_t* strip, const PackedWeights& weights, std::int64_t width,
                       std::uint8_t* const* groups);

    // Sums `count` row groups of padded width `width` along y and writes columns [first, last). `first` is 0 where
    // the target is streamed.
    void (*vertical)(const std::uint8_t* const* groups, std::int64_t count, const std::uint32_t* words,
                     std::int64_t width, std::int64_t first, std::int64_t last, const RowTarget& target);

    // Ends the writing of streamed rows: other threads see them.
    void (*settle)();

    BoxPass box_pass;
};

// Null if the compiler's target lacks the instructions.
const Kernels* avx512_kernels();
const Kernels* avx2_kernels();
const Kernels* neon_kernels();
const Kernels* dotprod_kernels();
const Kernels* i8mm_kernels();

}  // namespace rar

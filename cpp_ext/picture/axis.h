// One axis of a resize: which source pixels make each output pixel, with which fixed-point weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rar {

enum class Filter { kBox, kBilinear, kHamming, kBicubic, kLanczos };

// Throws std::invalid_argument for an unknown name.
Filter parse_filter(const std::string& name);

// Weights are integers with this many fractional bits, as in Pillow: 8 bits of pixel and 2 of headroom for
// filters with negative lobes fill the rest of an int32.
constexpr int kPrecisionBits = 32 - 8 - 2;

// Output pixel i of the kept part is
//     clip((sum_j weights[offsets[i] + j] * source[starts[i] + j] + half) >> kPrecisionBits)
// over j < offsets[i + 1] - offsets[i].
struct Axis {
    std::vector<std::int32_t> starts;
    std::vector<std::int64_t> offsets;  // one more than starts
    std::vector<std::int32_t> weights;
    std::int64_t source_first = 0;  // the source pixels any output needs: [source_first, source_last)
    std::int64_t source_last = 0;

    std::int64_t size() const { return static_cast<std::int64_t>(starts.size()); }
};

// The kept part [first, first + count) of a resize from `in` to `out` pixels, in Pillow's arithmetic: the same
// doubles in the same order, so that the integers agree bit for bit.
Axis resize_axis(std::int64_t in, std::int64_t out, std::int64_t first, std::int64_t count, Filter filter);

// Samples of a line of `in` pixels that goes on beyond its ends with its end pixels: sample i stands in the middle
// of the `step` pixels from (first + i) * step on, and is a mean that falls off in a straight line to the middle of
// its neighbours. `step` is odd.
Axis sampling_axis(std::int64_t in, std::int64_t first, std::int64_t step, std::int64_t count);

// A Gaussian of deviation `sigma` around each of the pixels [first, first + count), first >= 0, over samples at
// every `step` pixels, cut off at `support` pixels. Sample 0 is the line's sample first / step - reach; `reach`
// samples cover the support. Weights depend on a pixel's own position alone, not on `first`.
Axis gaussian_axis(std::int64_t first, std::int64_t count, std::int64_t step, std::int64_t reach, double sigma,
                   double support);

}  // namespace rar

// From uint8 values to what the model takes: (value / 255 - mean) / std.
#pragma once

#include <array>
#include <cstdint>

#include "picture/image_view.h"
#include "picture/kernels.h"
#include "picture/wanted.h"

namespace rar {

struct Normalizer {
    // Throws std::invalid_argument where a mean is not finite or a std is not finite and above zero.
    Normalizer(const std::array<double, kChannels>& mean, const std::array<double, kChannels>& std);

    // Every value a channel can take, in the float32 steps of torchvision's ToTensor and Normalize, and the
    // same rounded to float16 (nearest, ties to even).
    std::array<std::array<float, 256>, kChannels> table;
    std::array<std::array<std::uint16_t, 256>, kChannels> half_table;
    Scaling scaling;  // the same for kernels that compute faster than they look up
};

// A result in the caller's memory: uint8 [height, width, 3], or float planes [3, height, width].
struct Canvas {
    std::uint8_t* data;
    std::int64_t width;
    std::int64_t height;
    PixelType type;
    const Normalizer* normalizer;    // not for uint8
    const Wanted* wanted = nullptr;  // what of it has to be written; null for all
    bool streamed = false;           // past the caches where rows allow it; see RowTarget

    RowTarget at(std::int64_t x, std::int64_t y) const;
};

// Writes `count` uint8 RGB pixels to a row.
void write_row(const std::uint8_t* pixels, std::int64_t count, const Canvas& canvas, std::int64_t x, std::int64_t y);

// Sets the part of a row from `first` to `last` to one colour.
void fill_row(const std::array<std::uint8_t, kChannels>& colour, const Canvas& canvas, std::int64_t first,
              std::int64_t last, std::int64_t y);

}  // namespace rar

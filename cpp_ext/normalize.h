// From uint8 values to what the model takes: (value / 255 - mean) / std.
#pragma once

#include <array>
#include <cstdint>

#include "image_view.h"

namespace rar {

struct Normalizer {
    // Throws std::invalid_argument where a mean is not finite or a std is not finite and above zero.
    Normalizer(const std::array<double, kChannels>& mean, const std::array<double, kChannels>& std);

    // Every value a channel can take, in the float32 steps of torchvision's ToTensor and Normalize.
    std::array<std::array<float, 256>, kChannels> table;
};

// Where a prepared picture goes: CHW float32 planes of size x size.
struct Planes {
    float* data = nullptr;
    std::int64_t size = 0;

    float* row(int channel, std::int64_t y) const { return data + (channel * size + y) * size; }
};

// Normalises uint8 RGB pixels [height, width, 3] to (left, top) of the planes and fills what lies around them.
void write_planes(const std::uint8_t* pixels, std::int64_t width, std::int64_t height, std::int64_t left,
                  std::int64_t top, const std::array<std::uint8_t, kChannels>& fill, const Normalizer& normalizer,
                  const Planes& planes);

}  // namespace rar

#include "normalize.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace rar {

Normalizer::Normalizer(const std::array<double, kChannels>& mean, const std::array<double, kChannels>& std) {
    for (int channel = 0; channel < kChannels; ++channel) {
        const auto mean32 = static_cast<float>(mean[channel]);
        const auto std32 = static_cast<float>(std[channel]);
        if (!std::isfinite(mean32)) throw std::invalid_argument("mean must be finite");
        if (!std::isfinite(std32) || std32 <= 0) throw std::invalid_argument("std must be finite and above zero");
        for (int value = 0; value < 256; ++value) {
            table[channel][value] = (static_cast<float>(value) / 255.0f - mean32) / std32;
        }
    }
}

void write_planes(const std::uint8_t* pixels, std::int64_t width, std::int64_t height, std::int64_t left,
                  std::int64_t top, const std::array<std::uint8_t, kChannels>& fill, const Normalizer& normalizer,
                  const Planes& planes) {
    for (int channel = 0; channel < kChannels; ++channel) {
        const std::array<float, 256>& table = normalizer.table[channel];
        const float around = table[fill[channel]];
        for (std::int64_t y = 0; y < planes.size; ++y) {
            float* row = planes.row(channel, y);
            if (y < top || y >= top + height) {
                std::fill(row, row + planes.size, around);
                continue;
            }
            const std::uint8_t* source = pixels + (y - top) * width * kChannels + channel;
            std::fill(row, row + left, around);
            for (std::int64_t x = 0; x < width; ++x) row[left + x] = table[source[x * kChannels]];
            std::fill(row + left + width, row + planes.size, around);
        }
    }
}

}  // namespace rar

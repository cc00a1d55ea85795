#include "picture/normalize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace rar {
namespace {

constexpr std::uintptr_t kLine = 64;

// IEEE float32 to float16, to nearest, ties to even, as the conversion instructions do it.
std::uint16_t to_half(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
    bits &= 0x7fffffffu;
    if (bits >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // rounds to infinity
    if (bits < 0x38800000u) {
        // Below the smallest normal half: the unit in the last place is 2^-24, and nearbyint ties to even.
        const float steps = std::nearbyint(std::fabs(value) * 0x1p24f);
        return static_cast<std::uint16_t>(sign | static_cast<std::uint16_t>(steps));
    }
    bits += 0xfffu + (bits >> 13 & 1u);
    return static_cast<std::uint16_t>(sign | ((bits >> 13) - (112u << 10)));
}

// The kernels' way to divide without dividing.
float multiply(float value, float inverse, float rest) { return std::fma(value, inverse, value * rest); }

}  // namespace

Normalizer::Normalizer(const std::array<double, kChannels>& mean, const std::array<double, kChannels>& std) {
    scaling.inverse_is_exact = true;
    for (int channel = 0; channel < kChannels; ++channel) {
        const auto mean32 = static_cast<float>(mean[channel]);
        const auto std32 = static_cast<float>(std[channel]);
        if (!std::isfinite(mean32)) throw std::invalid_argument("mean must be finite");
        if (!std::isfinite(std32) || std32 <= 0) throw std::invalid_argument("std must be finite and above zero");
        const float inverse = 1.0f / std32;
        scaling.mean[channel] = mean32;
        scaling.std[channel] = std32;
        const auto rest = static_cast<float>(1.0 / static_cast<double>(std32) - static_cast<double>(inverse));
        scaling.inverse_std[channel] = inverse;
        scaling.inverse_rest[channel] = rest;
        for (int value = 0; value < 256; ++value) {
            const auto level = static_cast<float>(value);
            const float exact = (level / 255.0f - mean32) / std32;
            const float unit = multiply(level, kUnit, kUnitRest);
            scaling.inverse_is_exact &= multiply(unit - mean32, inverse, rest) == exact;
            table[channel][value] = exact;
            half_table[channel][value] = to_half(exact);
        }
    }
}

RowTarget Canvas::at(std::int64_t x, std::int64_t y) const {
    if (type == PixelType::kUint8)
        return {{data + (y * width + x) * kChannels, nullptr, nullptr}, type, nullptr, false};
    const std::int64_t item = type == PixelType::kFloat32 ? sizeof(float) : sizeof(std::uint16_t);
    RowTarget target{{}, type, &normalizer->scaling, streamed && type == PixelType::kFloat32};
    for (int channel = 0; channel < kChannels; ++channel) {
        std::uint8_t* const plane = data + ((channel * height + y) * width + x) * item;
        target.channel[channel] = plane;
        target.streamed &= reinterpret_cast<std::uintptr_t>(plane) % kLine == 0;
    }
    return target;
}

void write_row(const std::uint8_t* pixels, std::int64_t count, const Canvas& canvas, std::int64_t x, std::int64_t y) {
    const RowTarget target = canvas.at(x, y);
    if (canvas.type == PixelType::kUint8) {
        std::memcpy(target.channel[0], pixels, static_cast<std::size_t>(count * kChannels));
        return;
    }
    for (int channel = 0; channel < kChannels; ++channel) {
        const auto look_up = [&](const auto& table, auto* out) {
            for (std::int64_t i = 0; i < count; ++i) out[i] = table[pixels[i * kChannels + channel]];
        };
        if (canvas.type == PixelType::kFloat32) {
            look_up(canvas.normalizer->table[channel], static_cast<float*>(target.channel[channel]));
        } else {
            look_up(canvas.normalizer->half_table[channel], static_cast<std::uint16_t*>(target.channel[channel]));
        }
    }
}

void fill_row(const std::array<std::uint8_t, kChannels>& colour, const Canvas& canvas, std::int64_t first,
              std::int64_t last, std::int64_t y) {
    if (first == last) return;
    const RowTarget target = canvas.at(first, y);
    for (int channel = 0; channel < kChannels; ++channel) {
        const std::uint8_t value = colour[channel];
        if (canvas.type == PixelType::kFloat32) {
            std::fill_n(static_cast<float*>(target.channel[channel]), last - first,
                        canvas.normalizer->table[channel][value]);
        } else {
            std::fill_n(static_cast<std::uint16_t*>(target.channel[channel]), last - first,
                        canvas.normalizer->half_table[channel][value]);
        }
    }
}

}  // namespace rar

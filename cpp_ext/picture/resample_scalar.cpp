#include "picture/resample_scalar.h"

#include <algorithm>

namespace rar {
namespace {

// Sums wrap modulo 2^32 in unsigned arithmetic; the value that counts fits an int32.
std::uint8_t weigh(const std::uint8_t* source, std::ptrdiff_t step, const std::int32_t* weights, std::int64_t taps) {
    std::uint32_t sum = 1u << (kPrecisionBits - 1);
    for (std::int64_t j = 0; j < taps; ++j) {
        sum += static_cast<std::uint32_t>(source[j * step]) * static_cast<std::uint32_t>(weights[j]);
    }
    const std::int32_t value = static_cast<std::int32_t>(sum) >> kPrecisionBits;
    return static_cast<std::uint8_t>(std::clamp(value, 0, 255));
}

ImageView view_of(const std::vector<std::uint8_t>& pixels, std::int64_t width, std::int64_t height) {
    return {pixels.data(), width, height, width * kChannels};
}

// Rows [first, last) of the picture, resized along x.
std::vector<std::uint8_t> horizontal(const ImageView& image, const Axis& axis, std::int64_t first, std::int64_t last) {
    std::vector<std::uint8_t> result(static_cast<std::size_t>((last - first) * axis.size() * kChannels));
    std::uint8_t* out = result.data();
    for (std::int64_t y = first; y < last; ++y) {
        for (std::int64_t i = 0; i < axis.size(); ++i) {
            const std::int64_t taps = axis.offsets[i + 1] - axis.offsets[i];
            const std::uint8_t* source = image.row(y) + std::int64_t{axis.starts[i]} * kChannels;
            for (int channel = 0; channel < kChannels; ++channel) {
                *out++ = weigh(source + channel, kChannels, &axis.weights[axis.offsets[i]], taps);
            }
        }
    }
    return result;
}

// Output rows [first, last), resized along y; the picture's row 0 is the axis' row `top`.
std::vector<std::uint8_t> vertical(const ImageView& image, const Axis& axis, std::int64_t top, std::int64_t first,
                                   std::int64_t last) {
    std::vector<std::uint8_t> result(static_cast<std::size_t>((last - first) * image.width * kChannels));
    std::uint8_t* out = result.data();
    for (std::int64_t i = first; i < last; ++i) {
        const std::int64_t taps = axis.offsets[i + 1] - axis.offsets[i];
        const std::uint8_t* source = image.row(axis.starts[i] - top);
        for (std::int64_t x = 0; x < image.width * kChannels; ++x) {
            *out++ = weigh(source + x, image.row_stride, &axis.weights[axis.offsets[i]], taps);
        }
    }
    return result;
}

}  // namespace

std::vector<std::uint8_t> resample_scalar(const ImageView& image, const Axis& x, const Axis& y, std::int64_t first,
                                          std::int64_t last, Order order) {
    if (order == Order::kHorizontalFirst) {
        const std::int64_t top = y.starts[first];
        const std::int64_t bottom = y.starts[last - 1] + y.offsets[last] - y.offsets[last - 1];
        const auto rows = horizontal(image, x, top, bottom);
        return vertical(view_of(rows, x.size(), bottom - top), y, top, first, last);
    }
    // Whole rows between the passes: the weights of x then need no shift.
    const auto rows = vertical(image, y, 0, first, last);
    return horizontal(view_of(rows, image.width, last - first), x, 0, last - first);
}

}  // namespace rar

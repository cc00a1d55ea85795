#include <algorithm>
#include <cmath>
#include <cstring>

#include "blur.h"
#include "box_pass.h"

namespace rar {
namespace {

constexpr int kPasses = 3;

// Pillow's formula (after Gwosdek et al. 2011) in its own mixture of floats and doubles.
float box_radius(float sigma) {
    const float variance = sigma * sigma / kPasses;
    const auto length = static_cast<float>(std::sqrt(12.0 * variance + 1.0));
    const auto whole = static_cast<float>(std::floor((length - 1.0) / 2.0));
    float fraction = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance);
    fraction /= 6 * (variance - (whole + 1) * (whole + 1));
    return whole + fraction;
}

BoxWeights box_weights(float radius) {
    BoxWeights weights{};
    weights.radius = static_cast<std::int64_t>(radius);
    weights.inner = static_cast<std::uint32_t>(static_cast<float>(1 << 24) / (radius * 2 + 1));
    weights.outer = ((1u << 24) - static_cast<std::uint32_t>(weights.radius * 2 + 1) * weights.inner) / 2;
    return weights;
}

// Three passes over lines of `count` positions; the result is in `a`.
void three_passes(std::uint8_t*& a, std::uint8_t*& b, std::int64_t count, const BoxWeights& weights, BoxPass pass) {
    for (int i = 0; i < kPasses; ++i) {
        pass(a, b, count, weights);
        std::swap(a, b);
    }
}

// Rows side by side: a block of lines is what fits of whole rows. `result` takes the columns from `left` on.
void horizontal(const ImageView& image, std::int64_t left, const Raster& result, const BoxWeights& weights,
                BoxPass pass) {
    constexpr std::int64_t kRows = kLines / kChannels;
    const auto bytes = static_cast<std::size_t>(image.width * kLines);
    const AlignedBuffer first(bytes);
    const AlignedBuffer second(bytes);
    std::memset(first.data(), 0, bytes);  // the lines that no row fills
    for (std::int64_t top = 0; top < image.height; top += kRows) {
        std::uint8_t* a = first.data();
        std::uint8_t* b = second.data();
        const std::int64_t rows = std::min(kRows, image.height - top);
        for (std::int64_t y = 0; y < rows; ++y) {
            const std::uint8_t* source = image.row(top + y);
            for (std::int64_t x = 0; x < image.width; ++x) {
                for (int c = 0; c < kChannels; ++c) a[x * kLines + y * kChannels + c] = source[x * kChannels + c];
            }
        }
        three_passes(a, b, image.width, weights, pass);
        for (std::int64_t y = 0; y < rows; ++y) {
            std::uint8_t* target = result.row(top + y);
            const std::uint8_t* lines = a + left * kLines + y * kChannels;
            for (std::int64_t x = 0; x < result.view().width; ++x) {
                for (int c = 0; c < kChannels; ++c) target[x * kChannels + c] = lines[x * kLines + c];
            }
        }
    }
}

// Columns of bytes lie side by side already. `result` takes the rows from `top` on.
void vertical(const ImageView& image, std::int64_t top, const Raster& result, const BoxWeights& weights,
              BoxPass pass) {
    const auto bytes = static_cast<std::size_t>(image.height * kLines);
    const AlignedBuffer first(bytes);
    const AlignedBuffer second(bytes);
    std::memset(first.data(), 0, bytes);
    for (std::int64_t left = 0; left < image.width * kChannels; left += kLines) {
        std::uint8_t* a = first.data();
        std::uint8_t* b = second.data();
        const auto lines = static_cast<std::size_t>(std::min<std::int64_t>(kLines, image.width * kChannels - left));
        for (std::int64_t y = 0; y < image.height; ++y) std::memcpy(a + y * kLines, image.row(y) + left, lines);
        three_passes(a, b, image.height, weights, pass);
        for (std::int64_t y = 0; y < result.view().height; ++y) {
            std::memcpy(result.row(y) + left, a + (top + y) * kLines, lines);
        }
    }
}

}  // namespace

Raster pillow_blur(const ImageView& image, const Rect& part, double sigma, BoxPass pass) {
    const BoxWeights weights = box_weights(box_radius(static_cast<float>(sigma)));
    // What three passes can carry into the part; at the picture's own edge the filter repeats the last pixel.
    const std::int64_t reach = kPasses * (weights.radius + 1);
    const Rect wide{std::max<std::int64_t>(part.x0 - reach, 0), std::max<std::int64_t>(part.y0 - reach, 0),
                    std::min(part.x1 + reach, image.width), std::min(part.y1 + reach, image.height)};
    const ImageView source{image.row(wide.y0) + wide.x0 * kChannels, wide.width(), wide.height(), image.row_stride};
    const Raster rows(part.width(), wide.height());
    horizontal(source, part.x0 - wide.x0, rows, weights, pass);
    Raster result(part.width(), part.height());
    vertical(rows.view(), part.y0 - wide.y0, result, weights, pass);
    return result;
}

}  // namespace rar

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

// Rows side by side: a block of lines is what fits of whole rows.
void horizontal(const Raster& raster, const BoxWeights& weights, BoxPass pass) {
    constexpr std::int64_t kRows = kLines / kChannels;
    const ImageView view = raster.view();
    const AlignedBuffer first(static_cast<std::size_t>(view.width * kLines));
    const AlignedBuffer second(static_cast<std::size_t>(view.width * kLines));
    std::memset(first.data(), 0, static_cast<std::size_t>(view.width * kLines));
    for (std::int64_t top = 0; top < view.height; top += kRows) {
        std::uint8_t* a = first.data();
        std::uint8_t* b = second.data();
        const std::int64_t rows = std::min(kRows, view.height - top);
        for (std::int64_t y = 0; y < rows; ++y) {
            const std::uint8_t* source = raster.row(top + y);
            for (std::int64_t x = 0; x < view.width; ++x) {
                for (int c = 0; c < kChannels; ++c) a[x * kLines + y * kChannels + c] = source[x * kChannels + c];
            }
        }
        three_passes(a, b, view.width, weights, pass);
        for (std::int64_t y = 0; y < rows; ++y) {
            std::uint8_t* target = raster.row(top + y);
            for (std::int64_t x = 0; x < view.width; ++x) {
                for (int c = 0; c < kChannels; ++c) target[x * kChannels + c] = a[x * kLines + y * kChannels + c];
            }
        }
    }
}

// Columns of bytes lie side by side already. `result` takes the rows from `top` on.
void vertical(const Raster& raster, std::int64_t top, const Raster& result, const BoxWeights& weights, BoxPass pass) {
    const ImageView view = raster.view();
    const std::int64_t bytes = view.width * kChannels;
    const AlignedBuffer first(static_cast<std::size_t>(view.height * kLines));
    const AlignedBuffer second(static_cast<std::size_t>(view.height * kLines));
    std::memset(first.data(), 0, static_cast<std::size_t>(view.height * kLines));
    for (std::int64_t left = 0; left < bytes; left += kLines) {
        std::uint8_t* a = first.data();
        std::uint8_t* b = second.data();
        const auto lines = static_cast<std::size_t>(std::min<std::int64_t>(kLines, bytes - left));
        for (std::int64_t y = 0; y < view.height; ++y) std::memcpy(a + y * kLines, raster.row(y) + left, lines);
        three_passes(a, b, view.height, weights, pass);
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
    const Raster whole_rows = blur(nullptr, image, wide, 0.0, BlurMethod::kPillow);
    horizontal(whole_rows, weights, pass);
    const std::int64_t skipped = part.x0 - wide.x0;
    const ImageView view = whole_rows.view();
    const ImageView kept{view.data + skipped * kChannels, part.width(), wide.height(), view.row_stride};
    const Raster columns = blur(nullptr, kept, {0, 0, part.width(), wide.height()}, 0.0, BlurMethod::kPillow);
    Raster result(part.width(), part.height());
    vertical(columns, part.y0 - wide.y0, result, weights, pass);
    return result;
}

}  // namespace rar

#include <algorithm>
#include <cmath>
#include <cstring>

#include "picture/blur.h"
#include "picture/box_pass.h"
#include "picture/raster.h"

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

// Rows of a block that lie side by side.
constexpr std::int64_t kRows = kLines / kChannels;
constexpr std::int64_t kTile = 8;
static_assert(kRows % kTile == 0);

// Bytes 0 … 7 of rows 0 … 7, turned: byte i of row j goes to byte j of row i (Hacker's Delight, 7-3).
void turn_tile(std::uint64_t (&rows)[kTile]) {
    const auto exchange = [&](int half, std::uint64_t mask) {
        for (int i = 0; i < kTile; ++i) {
            if (i & half) continue;
            const std::uint64_t moved = (rows[i] >> (8 * half) ^ rows[i + half]) & mask;
            rows[i + half] ^= moved;
            rows[i] ^= moved << (8 * half);
        }
    };
    exchange(4, 0x00000000ffffffff);
    exchange(2, 0x0000ffff0000ffff);
    exchange(1, 0x00ff00ff00ff00ff);
}

// Copies `count` bytes of each of kRows rows to [byte][row].
void turn_in(const std::uint8_t* const* rows, std::int64_t count, std::uint8_t* turned) {
    std::int64_t at = 0;
    for (; at + kTile <= count; at += kTile) {
        for (std::int64_t row = 0; row < kRows; row += kTile) {
            std::uint64_t tile[kTile];
            for (int i = 0; i < kTile; ++i) std::memcpy(&tile[i], rows[row + i] + at, kTile);
            turn_tile(tile);
            for (int i = 0; i < kTile; ++i) std::memcpy(turned + (at + i) * kRows + row, &tile[i], kTile);
        }
    }
    for (; at < count; ++at) {
        for (std::int64_t row = 0; row < kRows; ++row) turned[at * kRows + row] = rows[row][at];
    }
}

// And back.
void turn_out(const std::uint8_t* turned, std::int64_t count, std::uint8_t* const* rows) {
    std::int64_t at = 0;
    for (; at + kTile <= count; at += kTile) {
        for (std::int64_t row = 0; row < kRows; row += kTile) {
            std::uint64_t tile[kTile];
            for (int i = 0; i < kTile; ++i) std::memcpy(&tile[i], turned + (at + i) * kRows + row, kTile);
            turn_tile(tile);
            for (int i = 0; i < kTile; ++i) std::memcpy(rows[row + i] + at, &tile[i], kTile);
        }
    }
    for (; at < count; ++at) {
        for (std::int64_t row = 0; row < kRows; ++row) rows[row][at] = turned[at * kRows + row];
    }
}

// Rows side by side: a position is a pixel, its lines the rows' red, then green, then blue. `result` takes its width of
// columns from `left` on.
void horizontal(const ImageView& image, std::int64_t left, const Raster& result, const BoxWeights& weights,
                BoxPass pass) {
    const auto bytes = static_cast<std::size_t>(image.width * kLines);
    const AlignedBuffer first(bytes);
    const AlignedBuffer second(bytes);
    const std::int64_t width = result.view().width * kChannels;
    const AlignedBuffer unused(static_cast<std::size_t>(width));
    for (std::int64_t top = 0; top < image.height; top += kRows) {
        std::uint8_t* a = first.data();
        std::uint8_t* b = second.data();
        const std::uint8_t* sources[kRows];
        std::uint8_t* targets[kRows];
        for (std::int64_t y = 0; y < kRows; ++y) {
            const bool there = top + y < image.height;
            sources[y] = image.row(there ? top + y : image.height - 1);
            targets[y] = there ? result.row(top + y) : unused.data();
        }
        turn_in(sources, image.width * kChannels, a);
        three_passes(a, b, image.width, weights, pass);
        turn_out(a + left * kLines, width, targets);
    }
}

// Copies `count` blocks of up to kLines bytes.
void copy_blocks(const std::uint8_t* source, std::int64_t from, std::uint8_t* target, std::int64_t to,
                 std::int64_t lines, std::int64_t count) {
    if (lines == kLines) {  // parts of a size that the compiler knows need no call
        constexpr int kPart = 32;
        static_assert(kLines % kPart == 0);
        for (std::int64_t i = 0; i < count; ++i) {
            for (int at = 0; at < kLines; at += kPart) std::memcpy(target + i * to + at, source + i * from + at, kPart);
        }
        return;
    }
    for (std::int64_t i = 0; i < count; ++i) {
        std::memcpy(target + i * to, source + i * from, static_cast<std::size_t>(lines));
    }
}

// Columns of bytes lie side by side already. Rows [skipped, skipped + rows) of the result go to `target`.
void vertical(const ImageView& image, std::int64_t skipped, std::int64_t rows, const BoxWeights& weights, BoxPass pass,
              const Canvas& target, std::int64_t left, std::int64_t top) {
    auto* const corner = static_cast<std::uint8_t*>(target.at(left, top).channel[0]);
    const auto bytes = static_cast<std::size_t>(image.height * kLines);
    const AlignedBuffer first(bytes);
    const AlignedBuffer second(bytes);
    std::memset(first.data(), 0, bytes);
    for (std::int64_t column = 0; column < image.width * kChannels; column += kLines) {
        std::uint8_t* a = first.data();
        std::uint8_t* b = second.data();
        const std::int64_t lines = std::min<std::int64_t>(kLines, image.width * kChannels - column);
        copy_blocks(image.row(0) + column, image.row_stride, a, kLines, lines, image.height);
        three_passes(a, b, image.height, weights, pass);
        copy_blocks(a + skipped * kLines, kLines, corner + column, target.width * kChannels, lines, rows);
    }
}

}  // namespace

void pillow_blur(const ImageView& image, const Rect& part, double sigma, BoxPass pass, const Canvas& target,
                 std::int64_t left, std::int64_t top) {
    const BoxWeights weights = box_weights(box_radius(static_cast<float>(sigma)));
    // What three passes can carry into the part; at the picture's own edge the filter repeats the last pixel.
    const std::int64_t reach = kPasses * (weights.radius + 1);
    const Rect wide{std::max<std::int64_t>(part.x0 - reach, 0), std::max<std::int64_t>(part.y0 - reach, 0),
                    std::min(part.x1 + reach, image.width), std::min(part.y1 + reach, image.height)};
    const ImageView source{image.row(wide.y0) + wide.x0 * kChannels, wide.width(), wide.height(), image.row_stride};
    const Raster rows(part.width(), wide.height());
    horizontal(source, part.x0 - wide.x0, rows, weights, pass);
    vertical(rows.view(), part.y0 - wide.y0, part.height(), weights, pass, target, left, top);
}

}  // namespace rar

#include "picture/wanted.h"

#include <algorithm>
#include <cstddef>

namespace rar {

Wanted::Wanted(std::int64_t width, std::int64_t height)
    : whole_{0, 0, width, height},
      columns_((width + kTileWidth - 1) / kTileWidth),
      tiles_(static_cast<std::size_t>(columns_ * ((height + kTileHeight - 1) / kTileHeight))) {}

void Wanted::add(const Rect& part) {
    const Rect inside = intersection(part, whole_);
    if (inside.width() <= 0 || inside.height() <= 0) return;
    const std::int64_t left = inside.x0 / kTileWidth;
    const std::int64_t count = (inside.x1 - 1) / kTileWidth + 1 - left;
    for (std::int64_t y = inside.y0 / kTileHeight; y <= (inside.y1 - 1) / kTileHeight; ++y) {
        std::fill_n(tiles_.begin() + y * columns_ + left, count, std::uint8_t{1});
    }
}

}  // namespace rar

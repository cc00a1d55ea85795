#include "picture/overlay.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace rar {
namespace {

void copy_pixels(const std::uint8_t* row, std::int64_t first, std::int64_t last, std::uint8_t* target) {
    std::memcpy(target, row + first * kChannels, static_cast<std::size_t>((last - first) * kChannels));
}

}  // namespace

void draw(const Overlay& overlay, const Raster& target) {
    const Rect& box = overlay.box;
    for (std::int64_t y = box.y0; y < box.y1; ++y) {
        copy_pixels(overlay.picture.row(y), box.x0, box.x1, target.row(y) + box.x0 * kChannels);
    }
}

const std::uint8_t* overlaid_row(const ImageView& below, const Overlay* overlay, std::int64_t y, std::int64_t first,
                                 std::int64_t last, std::uint8_t* scratch) {
    const std::uint8_t* row = below.row(y);
    if (overlay == nullptr || y < overlay->box.y0 || y >= overlay->box.y1) return row + first * kChannels;
    const std::int64_t left = std::clamp(overlay->box.x0, first, last);
    const std::int64_t right = std::clamp(overlay->box.x1, first, last);
    copy_pixels(row, first, left, scratch);
    copy_pixels(overlay->picture.row(y), left, right, scratch + (left - first) * kChannels);
    copy_pixels(row, right, last, scratch + (right - first) * kChannels);
    return scratch;
}

}  // namespace rar

// A rectangle of one picture shown over another of the same size, without a copy of either.
#pragma once

#include <cstdint>

#include "picture/image_view.h"
#include "picture/raster.h"
#include "picture/rect.h"

namespace rar {

struct Overlay {
    ImageView picture;
    Rect box;  // where it shows
};

// Draws it on a picture that has its size.
void draw(const Overlay& overlay, const Raster& target);

// Pixels [first, last) of a row of `below` with the overlay, if there is one: either that row itself or `scratch`,
// which holds at least as many pixels.
const std::uint8_t* overlaid_row(const ImageView& below, const Overlay* overlay, std::int64_t y, std::int64_t first,
                                 std::int64_t last, std::uint8_t* scratch);

}  // namespace rar

// Pillow's two-pass resampling of 8-bit pictures, bit for bit.
#pragma once

#include <cstdint>
#include <vector>

#include "axis.h"
#include "image_view.h"

namespace rar {

// The passes do not commute, because the pixels between them are rounded to 8 bits: the order is part of the
// result. Horizontal first, except (since Pillow 13) where the height shrinks by over twice as much.
enum class Order { kHorizontalFirst, kVerticalFirst };
Order pass_order(std::int64_t in_width, std::int64_t in_height, std::int64_t out_width, std::int64_t out_height);

// The plain reference that every faster form is held against. Returns rows [first, last) of the result, uint8
// [last - first, x.size(), 3]; first < last.
std::vector<std::uint8_t> resample_scalar(const ImageView& image, const Axis& x, const Axis& y, std::int64_t first,
                                          std::int64_t last, Order order);

}  // namespace rar

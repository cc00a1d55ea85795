// The plain reference that every faster form is held against.
#pragma once

#include <cstdint>
#include <vector>

#include "picture/axis.h"
#include "picture/image_view.h"
#include "picture/resample.h"

namespace rar {

// Rows [first, last) of the result, uint8 [last - first, x.size(), 3]; first < last.
std::vector<std::uint8_t> resample_scalar(const ImageView& image, const Axis& x, const Axis& y, std::int64_t first,
                                          std::int64_t last, Order order);

}  // namespace rar

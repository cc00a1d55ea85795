// Pillow's two-pass resampling of 8-bit pictures, bit for bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "picture/axis.h"
#include "picture/image_view.h"
#include "picture/kernels.h"
#include "picture/normalize.h"
#include "picture/overlay.h"
#include "picture/packed_axis.h"

namespace rar {

// The passes do not commute, because the pixels between them are rounded to 8 bits: the order is part of the
// result. Horizontal first, except (since Pillow 13) where the height shrinks by over twice as much.
enum class Order { kHorizontalFirst, kVerticalFirst };
Order pass_order(std::int64_t in_width, std::int64_t in_height, std::int64_t out_width, std::int64_t out_height);

// An axis in the one form its instruction set reads.
struct AxisPlan {
    AxisPlan(Axis axis, const Kernels* kernels);

    std::size_t bytes;                 // about what it occupies
    std::optional<Axis> plain;         // scalar: no kernels
    std::optional<PackedAxis> packed;  // everything else
};

// Writes output rows [first, last) to the canvas, the axes' pixel (0, 0) at (left, top). Null kernels are the
// scalar reference; the overlay may be null.
void resample(const Kernels* kernels, const ImageView& image, const Overlay* overlay, const AxisPlan& x,
              const AxisPlan& y, Order order, std::int64_t first, std::int64_t last, const Canvas& canvas,
              std::int64_t left, std::int64_t top);

}  // namespace rar

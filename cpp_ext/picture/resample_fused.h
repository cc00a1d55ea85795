// The fast form of the horizontal-then-vertical resize: strips of rows go through both passes while in cache.
#pragma once

#include <cstdint>

#include "picture/image_view.h"
#include "picture/kernels.h"
#include "picture/normalize.h"
#include "picture/overlay.h"
#include "picture/packed_axis.h"

namespace rar {

// Writes output rows [first, last) to the canvas, the axes' pixel (0, 0) at (left, top). The overlay may be null.
void resample_fused(const Kernels& kernels, const ImageView& image, const Overlay* overlay, const PackedAxis& x,
                    const PackedAxis& y, std::int64_t first, std::int64_t last, const Canvas& canvas, std::int64_t left,
                    std::int64_t top);

}  // namespace rar

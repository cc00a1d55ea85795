// One object of a frame made ready for recognition: its box sharp, what surrounds it blurred.
#pragma once

#include <optional>
#include <vector>

#include "picture/blur.h"
#include "picture/image_view.h"
#include "picture/kernels.h"
#include "picture/overlay.h"
#include "picture/raster.h"
#include "picture/rect.h"
#include "picture/wanted.h"

namespace rar {

struct Region {
    Rect box;      // sharp; inside `around`
    Rect around;   // what is shown; inside the frame
    double sigma;  // deviation of the blur
};

// A part of the frame blurred once for several regions; only what they show of it is there.
struct SharedBlur {
    Rect part;
    Raster pixels;
};

// Groups regions by deviation and returns, for each, the part to blur once, or nothing where blurring region by
// region is less work. Regions of one group share one part.
std::vector<std::optional<Rect>> shared_parts(const std::vector<Region>& regions);

// Adds what of a shared part the region reads.
void add_wanted(const Region& region, const Rect& part, Wanted& wanted);

// What a region is resampled from: the pixels of `region.around`.
struct Layers {
    std::optional<Raster> own;  // what had to be made
    ImageView below;
    std::optional<Overlay> overlay;
};

// Without a method all is sharp. `shared` may be null.
Layers compose(const Kernels* kernels, const ImageView& frame, const Region& region,
               const std::optional<BlurMethod>& method, const SharedBlur* shared);

}  // namespace rar

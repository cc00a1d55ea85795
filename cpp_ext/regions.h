// One object of a frame made ready for recognition: its box sharp, what surrounds it blurred or painted over.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "blur.h"
#include "image_view.h"
#include "kernels.h"
#include "overlay.h"
#include "raster.h"
#include "rect.h"
#include "wanted.h"

namespace rar {

enum class Surround { kKeep, kBlur, kPaint };

// Throws std::invalid_argument for an unknown name.
Surround parse_surround(const std::string& name);

struct RegionStyle {
    Surround surround;
    BlurMethod method;                           // of kBlur
    std::array<std::uint8_t, kChannels> colour;  // of kPaint
    double feather;                              // deviation in pixels of the sharp part's soft edge
};

// Of a frame's size, one byte a pixel, not zero where the object is.
struct MaskView {
    const std::uint8_t* data;
    std::ptrdiff_t row_stride;
};

struct Region {
    Rect box;                      // sharp; inside the frame
    Rect around;                   // what is shown; meets the frame, beyond which it is mirrored
    double sigma;                  // of kBlur
    std::optional<MaskView> mask;  // what is sharp instead of the box
};

// A part of the frame blurred once for several regions; only what they show of it is there.
struct SharedBlur {
    Rect part;
    Raster pixels;
};

// Groups regions by deviation and returns, for each, the part to blur once, or nothing where blurring region by
// region is less work. Regions of one group share one part.
std::vector<std::optional<Rect>> shared_parts(const std::vector<Region>& regions, const RegionStyle& style,
                                              const Rect& frame);

// Adds what of a shared part the region reads.
void add_wanted(const Region& region, const RegionStyle& style, const Rect& frame, const Rect& part, Wanted& wanted);

// What a region is resampled from: the pixels of `region.around`.
struct Layers {
    std::optional<Raster> own;  // what had to be made
    ImageView below;
    std::optional<Overlay> overlay;
};

// `shared` may be null.
Layers compose(const Kernels* kernels, const ImageView& frame, const Region& region, const RegionStyle& style,
               const SharedBlur* shared);

}  // namespace rar

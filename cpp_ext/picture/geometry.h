// Where a picture goes in the square the model takes: the resize of each axis and the part of it that is kept.
#pragma once

#include <cstdint>
#include <string>

namespace rar {

enum class Fit { kCrop, kSquash, kPad };

// Throws std::invalid_argument for an unknown name.
Fit parse_fit(const std::string& name);

// One axis: `in` pixels are resized to `out`, of which [first, first + count) land at `offset` of the result.
struct Span {
    std::int64_t in = 0;
    std::int64_t out = 0;
    std::int64_t first = 0;
    std::int64_t count = 0;
    std::int64_t offset = 0;
};

struct Placement {
    Span x;
    Span y;
};

// crop: torchvision's Resize(shortest_edge) and CenterCrop(size); squash: both axes to `size`;
// pad: open_clip's ResizeKeepRatio(longest=1) and CenterCropOrPad(size).
Placement place(std::int64_t width, std::int64_t height, std::int64_t size, std::int64_t shortest_edge, Fit fit);

}  // namespace rar

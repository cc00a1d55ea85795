#include "picture/geometry.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace rar {
namespace {

// Python's round(difference / 2): halves go to the even neighbour.
std::int64_t half_to_even(std::int64_t difference) {
    const std::int64_t half = difference / 2;
    return difference % 2 != 0 && half % 2 != 0 ? half + 1 : half;
}

Span centred(std::int64_t in, std::int64_t out, std::int64_t size) {
    if (out < size) return {in, out, 0, out, (size - out) / 2};
    return {in, out, half_to_even(out - size), size, 0};
}

// Python's int(edge * side / shortest): one correctly rounded division, then truncation.
std::int64_t scaled(std::int64_t edge, std::int64_t side, std::int64_t shortest) {
    return static_cast<std::int64_t>(static_cast<double>(edge * side) / static_cast<double>(shortest));
}

}  // namespace

Fit parse_fit(const std::string& name) {
    if (name == "crop") return Fit::kCrop;
    if (name == "squash") return Fit::kSquash;
    if (name == "pad") return Fit::kPad;
    throw std::invalid_argument("fit must be crop, squash or pad, not '" + name + "'");
}

Placement place(std::int64_t width, std::int64_t height, std::int64_t size, std::int64_t shortest_edge, Fit fit) {
    std::int64_t out_width = size;
    std::int64_t out_height = size;
    if (fit == Fit::kCrop) {
        const std::int64_t shortest = std::min(width, height);
        out_width = width == shortest ? shortest_edge : scaled(shortest_edge, width, shortest);
        out_height = height == shortest ? shortest_edge : scaled(shortest_edge, height, shortest);
    } else if (fit == Fit::kPad) {
        const double ratio = static_cast<double>(std::max(width, height)) / static_cast<double>(size);
        // nearbyint rounds halves to even, as Python does. A side that would vanish keeps one pixel.
        out_width = std::max<std::int64_t>(1, std::llrint(std::nearbyint(static_cast<double>(width) / ratio)));
        out_height = std::max<std::int64_t>(1, std::llrint(std::nearbyint(static_cast<double>(height) / ratio)));
    }
    return {centred(width, out_width, size), centred(height, out_height, size)};
}

}  // namespace rar

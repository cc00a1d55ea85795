#include "regions.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <stdexcept>
#include <utility>

namespace rar {
namespace {

Rect frame_of(const ImageView& frame) { return {0, 0, frame.width, frame.height}; }

// Pixels a blur has to touch for a part of this size.
double blur_work(const Rect& part, double sigma) {
    const double reach = 2 * 4 * sigma;
    return (static_cast<double>(part.width()) + reach) * (static_cast<double>(part.height()) + reach);
}

ImageView part_of(const ImageView& image, const Rect& part) {
    return {image.row(part.y0) + part.x0 * kChannels, part.width(), part.height(), image.row_stride};
}

Rect moved(const Rect& rect, std::int64_t x, std::int64_t y) {
    return {rect.x0 + x, rect.y0 + y, rect.x1 + x, rect.y1 + y};
}

Layers made(Raster pixels) {
    const ImageView view = pixels.view();
    return {std::move(pixels), view, std::nullopt};
}

// `part` of the frame as it looks away from the object.
Layers background(const Kernels* kernels, const ImageView& frame, const Rect& part, const Region& region,
                  const RegionStyle& style, const SharedBlur* shared) {
    if (style.surround == Surround::kKeep) return {std::nullopt, part_of(frame, part), std::nullopt};
    if (shared != nullptr) {
        const Rect local = moved(part, -shared->part.x0, -shared->part.y0);
        return {std::nullopt, part_of(shared->pixels.view(), local), std::nullopt};
    }
    Raster result(part.width(), part.height());
    if (style.surround == Surround::kBlur) {
        blur(kernels, frame, part, region.sigma, style.method, result.canvas(), 0, 0);
    } else {
        for (std::int64_t y = 0; y < part.height(); ++y) {
            std::uint8_t* row = result.row(y);
            for (std::int64_t x = 0; x < part.width() * kChannels; ++x) row[x] = style.colour[x % kChannels];
        }
    }
    return made(std::move(result));
}

// How much of the sharp picture shows at each pixel of the part: 0 or 255, in all three channels, so that it can
// be blurred like a picture.
Raster coverage(const Rect& part, const Region& region) {
    Raster result(part.width(), part.height());
    for (std::int64_t y = 0; y < part.height(); ++y) {
        std::uint8_t* row = result.row(y);
        const std::int64_t frame_y = part.y0 + y;
        for (std::int64_t x = 0; x < part.width(); ++x) {
            const std::int64_t frame_x = part.x0 + x;
            const bool sharp = region.mask ? region.mask->data[frame_y * region.mask->row_stride + frame_x] != 0
                                           : frame_x >= region.box.x0 && frame_x < region.box.x1 &&
                                                 frame_y >= region.box.y0 && frame_y < region.box.y1;
            std::memset(row + x * kChannels, sharp ? 255 : 0, kChannels);
        }
    }
    return result;
}

// The frame's part over `below`, as far as `cover` says.
Raster blended(const ImageView& sharp_part, const ImageView& below, const ImageView& cover) {
    Raster result(below.width, below.height);
    for (std::int64_t y = 0; y < below.height; ++y) {
        const std::uint8_t* sharp = sharp_part.row(y);
        const std::uint8_t* other = below.row(y);
        const std::uint8_t* share = cover.row(y);
        std::uint8_t* out = result.row(y);
        for (std::int64_t i = 0; i < below.width * kChannels; ++i) {
            out[i] = static_cast<std::uint8_t>((sharp[i] * share[i] + other[i] * (255 - share[i]) + 127) / 255);
        }
    }
    return result;
}

// The position in 0 … size - 1 that a position on either side of it mirrors to; the end pixels are not repeated.
std::int64_t mirrored(std::int64_t position, std::int64_t size) {
    if (size == 1) return 0;
    const std::int64_t period = 2 * (size - 1);
    const std::int64_t phase = (position % period + period) % period;
    return std::min(phase, period - phase);
}

// `part` of the frame is there; `around` is wanted.
Raster mirror(const Layers& layers, const Rect& part, const Rect& around, const Rect& frame) {
    Raster result(around.width(), around.height());
    const AlignedBuffer scratch(static_cast<std::size_t>(part.width() * kChannels));
    std::vector<std::int64_t> columns;
    for (std::int64_t x = around.x0; x < around.x1; ++x) columns.push_back(mirrored(x, frame.x1) - part.x0);
    for (std::int64_t y = around.y0; y < around.y1; ++y) {
        const std::uint8_t* source = overlaid_row(layers.below, layers.overlay ? &*layers.overlay : nullptr,
                                                  mirrored(y, frame.y1) - part.y0, 0, part.width(), scratch.data());
        std::uint8_t* out = result.row(y - around.y0);
        for (const std::int64_t column : columns) {
            std::memcpy(out, source + column * kChannels, kChannels);
            out += kChannels;
        }
    }
    return result;
}

// What of the frame a region shows, directly or mirrored.
Rect needed(const Rect& around, const Rect& frame) {
    const auto span = [](std::int64_t first, std::int64_t last, std::int64_t size) {
        if (first >= 0 && last <= size) return std::pair{first, last};
        if (last - first >= size) return std::pair{std::int64_t{0}, size};
        std::int64_t low = size;
        std::int64_t high = 0;
        for (std::int64_t position = first; position < last; ++position) {
            low = std::min(low, mirrored(position, size));
            high = std::max(high, mirrored(position, size) + 1);
        }
        return std::pair{low, high};
    };
    const auto [x0, x1] = span(around.x0, around.x1, frame.x1);
    const auto [y0, y1] = span(around.y0, around.y1, frame.y1);
    return {x0, y0, x1, y1};
}

}  // namespace

Surround parse_surround(const std::string& name) {
    if (name == "keep") return Surround::kKeep;
    if (name == "blur") return Surround::kBlur;
    if (name == "paint") return Surround::kPaint;
    throw std::invalid_argument("surroundings are kept, blurred or painted, not '" + name + "'");
}

std::vector<std::optional<Rect>> shared_parts(const std::vector<Region>& regions, const RegionStyle& style,
                                              const Rect& frame) {
    std::vector<std::optional<Rect>> result(regions.size());
    if (style.surround != Surround::kBlur) return result;
    std::map<double, std::vector<std::size_t>> groups;
    for (std::size_t i = 0; i < regions.size(); ++i) groups[regions[i].sigma].push_back(i);
    for (const auto& [sigma, members] : groups) {
        Rect all = needed(regions[members.front()].around, frame);
        double alone = 0;
        for (const std::size_t i : members) {
            const Rect part = needed(regions[i].around, frame);
            all = joined(all, part);
            alone += blur_work(part, sigma);
        }
        if (blur_work(all, sigma) >= alone) continue;
        for (const std::size_t i : members) result[i] = all;
    }
    return result;
}

void add_wanted(const Region& region, const RegionStyle& style, const Rect& frame, const Rect& part, Wanted& wanted) {
    const Rect shown = moved(needed(region.around, frame), -part.x0, -part.y0);
    if (region.mask || style.feather > 0) return wanted.add(shown);  // blended everywhere
    const Rect box = moved(region.box, -part.x0, -part.y0);
    wanted.add({shown.x0, shown.y0, shown.x1, box.y0});
    wanted.add({shown.x0, box.y0, box.x0, box.y1});
    wanted.add({box.x1, box.y0, shown.x1, box.y1});
    wanted.add({shown.x0, box.y1, shown.x1, shown.y1});
}

Layers compose(const Kernels* kernels, const ImageView& frame, const Region& region, const RegionStyle& style,
               const SharedBlur* shared) {
    const Rect whole = frame_of(frame);
    const Rect part = needed(region.around, whole);
    const ImageView sharp = part_of(frame, part);
    Layers layers = background(kernels, frame, part, region, style, shared);
    if (region.mask || style.feather > 0) {
        const Raster hard = coverage(part, region);
        const Raster soft(part.width(), part.height());
        blur(kernels, hard.view(), {0, 0, part.width(), part.height()}, style.feather, BlurMethod::kGaussian,
             soft.canvas(), 0, 0);
        layers = made(blended(sharp, layers.below, soft.view()));
    } else if (style.surround != Surround::kKeep) {
        layers.overlay = Overlay{sharp, moved(intersection(part, region.box), -part.x0, -part.y0)};
    }
    const Rect inside = intersection(region.around, whole);
    if (inside.width() < region.around.width() || inside.height() < region.around.height()) {
        layers = made(mirror(layers, part, region.around, whole));
    }
    return layers;
}

}  // namespace rar

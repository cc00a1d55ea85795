#include "picture/regions.h"

#include <map>
#include <utility>

namespace rar {
namespace {

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

}  // namespace

std::vector<std::optional<Rect>> shared_parts(const std::vector<Region>& regions) {
    std::vector<std::optional<Rect>> result(regions.size());
    std::map<double, std::vector<std::size_t>> groups;
    for (std::size_t i = 0; i < regions.size(); ++i) groups[regions[i].sigma].push_back(i);
    for (const auto& [sigma, members] : groups) {
        Rect all = regions[members.front()].around;
        double alone = 0;
        for (const std::size_t i : members) {
            all = joined(all, regions[i].around);
            alone += blur_work(regions[i].around, sigma);
        }
        if (blur_work(all, sigma) >= alone) continue;
        for (const std::size_t i : members) result[i] = all;
    }
    return result;
}

void add_wanted(const Region& region, const Rect& part, Wanted& wanted) {
    const Rect shown = moved(region.around, -part.x0, -part.y0);
    const Rect box = moved(region.box, -part.x0, -part.y0);
    wanted.add({shown.x0, shown.y0, shown.x1, box.y0});
    wanted.add({shown.x0, box.y0, box.x0, box.y1});
    wanted.add({box.x1, box.y0, shown.x1, box.y1});
    wanted.add({shown.x0, box.y1, shown.x1, shown.y1});
}

Layers compose(const Kernels* kernels, const ImageView& frame, const Region& region,
               const std::optional<BlurMethod>& method, const SharedBlur* shared) {
    const Rect& part = region.around;
    const ImageView sharp = part_of(frame, part);
    if (!method) return {std::nullopt, sharp, std::nullopt};
    const Overlay overlay{sharp, moved(region.box, -part.x0, -part.y0)};
    if (shared != nullptr) {
        const Rect local = moved(part, -shared->part.x0, -shared->part.y0);
        return {std::nullopt, part_of(shared->pixels.view(), local), overlay};
    }
    Raster blurred(part.width(), part.height());
    blur(kernels, frame, part, region.sigma, *method, blurred.canvas(), 0, 0);
    const ImageView below = blurred.view();
    return {std::move(blurred), below, overlay};
}

}  // namespace rar

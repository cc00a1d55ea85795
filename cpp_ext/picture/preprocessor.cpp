#include "picture/preprocessor.h"

#include <algorithm>
#include <map>
#include <utility>

namespace rar {
namespace {

// A picture smaller than this is one task: splitting it costs more than it saves.
constexpr std::int64_t kSplitPixels = 1 << 18;

// Results this large are streamed past the caches, which could not hold them until they are read. (Bytes.)
constexpr std::int64_t kStreamedBytes = 16 << 20;

}  // namespace

// Rows [first, last) of one result.
struct Preprocessor::Band {
    std::size_t image;
    std::int64_t first;
    std::int64_t last;
};

Preprocessor::Preprocessor(const Settings& settings, const Normalizer& normalizer, const Kernels* kernels, int threads)
    : settings_(settings),
      normalizer_(normalizer),
      kernels_(kernels),
      axes_(kernels, settings.filter),
      pool_(threads) {}

Canvas Preprocessor::canvas(std::uint8_t* out, PixelType type, std::size_t index, std::size_t count) const {
    const std::int64_t item = type == PixelType::kFloat32 ? sizeof(float) : sizeof(std::uint16_t);
    const std::int64_t bytes = kChannels * settings_.size * settings_.size * item;
    return {out + static_cast<std::int64_t>(index) * bytes,
            settings_.size,
            settings_.size,
            type,
            &normalizer_,
            nullptr,
            static_cast<std::int64_t>(count) * bytes >= kStreamedBytes};
}

void Preprocessor::run(const std::vector<ImageView>& images, std::uint8_t* out, PixelType type) {
    const std::vector<Band> tasks = bands(images);
    pool_.run(tasks.size(), [&](std::size_t i) {
        const Band& band = tasks[i];
        prepare(images[band.image], nullptr, settings_.fit, band.first, band.last,
                canvas(out, type, band.image, images.size()));
    });
}

void Preprocessor::run_regions(const ImageView& frame, const std::vector<Region>& regions,
                               const std::optional<BlurMethod>& method, Fit fit, std::uint8_t* out, PixelType type) {
    std::vector<std::shared_ptr<const SharedBlur>> shared(regions.size());
    if (method) shared = blur_shared(frame, regions, *method);
    pool_.run(regions.size(), [&](std::size_t i) {
        const Layers layers = compose(kernels_, frame, regions[i], method, shared[i].get());
        prepare(layers.below, layers.overlay ? &*layers.overlay : nullptr, fit, 0, settings_.size,
                canvas(out, type, i, regions.size()));
    });
}

std::vector<std::shared_ptr<const SharedBlur>> Preprocessor::blur_shared(const ImageView& frame,
                                                                         const std::vector<Region>& regions,
                                                                         BlurMethod method) {
    std::vector<std::shared_ptr<const SharedBlur>> result(regions.size());
    const auto parts = shared_parts(regions);
    std::map<double, Wanted> wanted;  // by deviation, as the regions are grouped
    for (std::size_t i = 0; i < regions.size(); ++i) {
        if (!parts[i]) continue;
        Wanted& own = wanted.try_emplace(regions[i].sigma, parts[i]->width(), parts[i]->height()).first->second;
        add_wanted(regions[i], *parts[i], own);
    }
    std::map<double, std::shared_ptr<const SharedBlur>> by_sigma;
    for (std::size_t i = 0; i < regions.size(); ++i) {
        if (!parts[i]) continue;
        auto& blurred = by_sigma[regions[i].sigma];
        if (!blurred) {
            const Rect part = *parts[i];
            auto made = std::make_shared<SharedBlur>(SharedBlur{part, Raster(part.width(), part.height())});
            const Canvas canvas = made->pixels.canvas(&wanted.at(regions[i].sigma));
            const std::int64_t bands = std::min<std::int64_t>(pool_.threads(), part.height());
            pool_.run(static_cast<std::size_t>(bands), [&](std::size_t band) {
                const auto index = static_cast<std::int64_t>(band);
                const std::int64_t first = part.height() * index / bands;
                const std::int64_t last = part.height() * (index + 1) / bands;
                const Rect rows{part.x0, part.y0 + first, part.x1, part.y0 + last};
                blur(kernels_, frame, rows, regions[i].sigma, method, canvas, 0, first);
            });
            blurred = std::move(made);
        }
        result[i] = blurred;
    }
    return result;
}

// One task a picture, unless that leaves threads idle and the picture is large.
std::vector<Preprocessor::Band> Preprocessor::bands(const std::vector<ImageView>& images) const {
    std::vector<Band> result;
    for (std::size_t i = 0; i < images.size(); ++i) {
        const std::int64_t area = images[i].width * images[i].height;
        const std::int64_t idle = (pool_.threads() - 1) / static_cast<std::int64_t>(images.size()) + 1;
        const std::int64_t parts = std::min({idle, area / kSplitPixels + 1, settings_.size});
        for (std::int64_t part = 0; part < parts; ++part) {
            result.push_back({i, settings_.size * part / parts, settings_.size * (part + 1) / parts});
        }
    }
    return result;
}

Preprocessor::Plan Preprocessor::plan_for(const ImageView& image, Fit fit) {
    const Placement placement = place(image.width, image.height, settings_.size, settings_.shortest_edge, fit);
    const auto axis = [this](const Span& span) { return axes_.get(span.in, span.out, span.first, span.count); };
    return {placement, pass_order(image.width, image.height, placement.x.out, placement.y.out), axis(placement.x),
            axis(placement.y)};
}

void Preprocessor::prepare(const ImageView& image, const Overlay* overlay, Fit fit, std::int64_t first,
                           std::int64_t last, const Canvas& canvas) {
    const Plan plan = plan_for(image, fit);
    const std::int64_t top = plan.placement.y.offset;
    const std::int64_t bottom = top + plan.placement.y.count;
    const std::int64_t left = plan.placement.x.offset;
    const std::int64_t right = left + plan.placement.x.count;
    for (std::int64_t y = first; y < last; ++y) {
        const bool covered = y >= top && y < bottom;
        fill_row(settings_.fill, canvas, 0, covered ? left : canvas.width, y);
        if (covered) fill_row(settings_.fill, canvas, right, canvas.width, y);
    }
    const std::int64_t begin = std::max(first, top) - top;
    const std::int64_t end = std::min(last, bottom) - top;
    if (begin < end) resample(kernels_, image, overlay, *plan.x, *plan.y, plan.order, begin, end, canvas, left, top);
}

}  // namespace rar

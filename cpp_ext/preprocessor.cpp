#include "preprocessor.h"

#include <algorithm>

#include "aligned_buffer.h"
#include "resample_fused.h"

namespace rar {
namespace {

// A picture smaller than this is one task: splitting it costs more than it saves.
constexpr std::int64_t kSplitPixels = 1 << 18;

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

void Preprocessor::run(const std::vector<ImageView>& images, std::uint8_t* out, PixelType type) {
    const std::int64_t item = type == PixelType::kFloat32 ? sizeof(float) : sizeof(std::uint16_t);
    const std::int64_t bytes = kChannels * settings_.size * settings_.size * item;
    const std::vector<Band> tasks = bands(images);
    pool_.run(tasks.size(), [&](std::size_t i) {
        const Band& band = tasks[i];
        const Canvas canvas{out + static_cast<std::int64_t>(band.image) * bytes, settings_.size, settings_.size, type,
                            &normalizer_};
        prepare(images[band.image], band.first, band.last, canvas);
    });
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

Preprocessor::Plan Preprocessor::plan_for(const ImageView& image) {
    const Placement placement =
        place(image.width, image.height, settings_.size, settings_.shortest_edge, settings_.fit);
    const auto axis = [this](const Span& span) { return axes_.get(span.in, span.out, span.first, span.count); };
    return {placement, pass_order(image.width, image.height, placement.x.out, placement.y.out), axis(placement.x),
            axis(placement.y)};
}

void Preprocessor::prepare(const ImageView& image, std::int64_t first, std::int64_t last, const Canvas& canvas) {
    const Plan plan = plan_for(image);
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
    if (begin < end) resample(image, plan, begin, end, canvas);
}

void Preprocessor::resample(const ImageView& image, const Plan& plan, std::int64_t first, std::int64_t last,
                            const Canvas& canvas) {
    const std::int64_t left = plan.placement.x.offset;
    const std::int64_t top = plan.placement.y.offset;
    if (kernels_ == nullptr) {
        const Axis& x = *plan.x->plain;
        const std::vector<std::uint8_t> pixels = resample_scalar(image, x, *plan.y->plain, first, last, plan.order);
        for (std::int64_t y = first; y < last; ++y) {
            write_row(pixels.data() + (y - first) * x.size() * kChannels, x.size(), canvas, left, top + y);
        }
        return;
    }
    const PackedAxis& x = *plan.x->packed;
    const PackedAxis& y = *plan.y->packed;
    if (plan.order == Order::kHorizontalFirst) {
        resample_fused(*kernels_, image, x, y, first, last, canvas, left, top);
        return;
    }
    // Vertical first: the same two passes over a first one that changes nothing along x, then over a second
    // that changes nothing along y. Tall pictures are too rare for kernels of their own.
    const std::int64_t rows = last - first;
    const std::int64_t width = x.source_last() - x.source_first();
    const AlignedBuffer between(static_cast<std::size_t>(rows * width * kChannels));
    const ImageView source{image.row(0) + x.source_first() * kChannels, width, image.height, image.row_stride};
    const Canvas squeezed{between.data(), width, rows, PixelType::kUint8, nullptr};
    resample_fused(*kernels_, source, *axes_.get(width, width, 0, width)->packed, y, first, last, squeezed, 0, -first);
    const ImageView squeezed_view{between.data() - x.source_first() * kChannels, width, rows, width * kChannels};
    resample_fused(*kernels_, squeezed_view, x, *axes_.get(rows, rows, 0, rows)->packed, 0, rows, canvas, left,
                   top + first);
}

}  // namespace rar

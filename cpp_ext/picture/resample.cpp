#include "picture/resample.h"

#include <cstring>
#include <utility>
#include <vector>

#include "base/aligned_buffer.h"
#include "picture/raster.h"
#include "picture/resample_fused.h"
#include "picture/resample_scalar.h"

namespace rar {
namespace {

// Pixels [first, last) as they are.
PackedAxis identity(std::int64_t first, std::int64_t last, const Kernels& kernels) {
    return PackedAxis(resize_axis(last, last, first, last - first, Filter::kBox), kernels);
}

void scalar(const ImageView& image, const Overlay* overlay, const Axis& x, const Axis& y, Order order,
            std::int64_t first, std::int64_t last, const Canvas& canvas, std::int64_t left, std::int64_t top) {
    if (overlay != nullptr) {
        const Raster flat(image.width, image.height);
        for (std::int64_t row = 0; row < image.height; ++row) {
            std::memcpy(flat.row(row), image.row(row), static_cast<std::size_t>(image.width * kChannels));
        }
        draw(*overlay, flat);
        scalar(flat.view(), nullptr, x, y, order, first, last, canvas, left, top);
        return;
    }
    const std::vector<std::uint8_t> pixels = resample_scalar(image, x, y, first, last, order);
    for (std::int64_t row = first; row < last; ++row) {
        write_row(pixels.data() + (row - first) * x.size() * kChannels, x.size(), canvas, left, top + row);
    }
}

// The two fused passes over a first one that changes nothing along x, then over a second that changes nothing
// along y. Tall pictures are too rare for kernels of their own.
void vertical_first(const Kernels& kernels, const ImageView& image, const Overlay* overlay, const PackedAxis& x,
                    const PackedAxis& y, std::int64_t first, std::int64_t last, const Canvas& canvas, std::int64_t left,
                    std::int64_t top) {
    const std::int64_t rows = last - first;
    const std::int64_t begin = x.source_first();
    const std::int64_t width = x.source_last();  // the axis counts from the whole picture's edge
    const AlignedBuffer between(static_cast<std::size_t>(rows * width * kChannels));
    const Canvas squeezed{between.data(), width, rows, PixelType::kUint8, nullptr};
    resample_fused(kernels, image, overlay, identity(begin, width, kernels), y, first, last, squeezed, begin, -first);
    const ImageView view{between.data(), width, rows, width * kChannels};
    resample_fused(kernels, view, nullptr, x, identity(0, rows, kernels), 0, rows, canvas, left, top + first);
}

}  // namespace

Order pass_order(std::int64_t in_width, std::int64_t in_height, std::int64_t out_width, std::int64_t out_height) {
    const std::int64_t shrunk = in_height - out_height;
    return shrunk > 0 && shrunk > (in_width - out_width) * 2 ? Order::kVerticalFirst : Order::kHorizontalFirst;
}

AxisPlan::AxisPlan(Axis axis, const Kernels* kernels)
    : bytes((axis.weights.size() + 4 * axis.starts.size()) * sizeof(std::int32_t)) {
    if (kernels == nullptr) {
        plain.emplace(std::move(axis));
    } else {
        packed.emplace(axis, *kernels);
    }
}

void resample(const Kernels* kernels, const ImageView& image, const Overlay* overlay, const AxisPlan& x,
              const AxisPlan& y, Order order, std::int64_t first, std::int64_t last, const Canvas& canvas,
              std::int64_t left, std::int64_t top) {
    if (kernels == nullptr) {
        scalar(image, overlay, *x.plain, *y.plain, order, first, last, canvas, left, top);
    } else if (order == Order::kHorizontalFirst) {
        resample_fused(*kernels, image, overlay, *x.packed, *y.packed, first, last, canvas, left, top);
    } else {
        vertical_first(*kernels, image, overlay, *x.packed, *y.packed, first, last, canvas, left, top);
    }
}

}  // namespace rar

#include "resample.h"

#include <utility>
#include <vector>

#include "aligned_buffer.h"
#include "resample_fused.h"
#include "resample_scalar.h"

namespace rar {
namespace {

PackedAxis identity(std::int64_t size, const Kernels& kernels) {
    return PackedAxis(resize_axis(size, size, 0, size, Filter::kBox), kernels);
}

void scalar(const ImageView& image, const Axis& x, const Axis& y, Order order, std::int64_t first, std::int64_t last,
            const Canvas& canvas, std::int64_t left, std::int64_t top) {
    const std::vector<std::uint8_t> pixels = resample_scalar(image, x, y, first, last, order);
    for (std::int64_t row = first; row < last; ++row) {
        write_row(pixels.data() + (row - first) * x.size() * kChannels, x.size(), canvas, left, top + row);
    }
}

// The two fused passes over a first one that changes nothing along x, then over a second that changes nothing
// along y. Tall pictures are too rare for kernels of their own.
void vertical_first(const Kernels& kernels, const ImageView& image, const PackedAxis& x, const PackedAxis& y,
                    std::int64_t first, std::int64_t last, const Canvas& canvas, std::int64_t left, std::int64_t top) {
    const std::int64_t rows = last - first;
    const std::int64_t needed = x.source_last() - x.source_first();
    const std::int64_t width = x.source_last();  // the axis counts from the whole picture's edge
    const AlignedBuffer between(static_cast<std::size_t>(rows * width * kChannels));

    const ImageView source{image.data + x.source_first() * kChannels, needed, image.height, image.row_stride};
    const Canvas squeezed{between.data(), width, rows, PixelType::kUint8, nullptr};
    resample_fused(kernels, source, identity(needed, kernels), y, first, last, squeezed, x.source_first(), -first);

    const ImageView whole{between.data(), width, rows, width * kChannels};
    resample_fused(kernels, whole, x, identity(rows, kernels), 0, rows, canvas, left, top + first);
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

void resample(const Kernels* kernels, const ImageView& image, const AxisPlan& x, const AxisPlan& y, Order order,
              std::int64_t first, std::int64_t last, const Canvas& canvas, std::int64_t left, std::int64_t top) {
    if (kernels == nullptr) {
        scalar(image, *x.plain, *y.plain, order, first, last, canvas, left, top);
    } else if (order == Order::kHorizontalFirst) {
        resample_fused(*kernels, image, *x.packed, *y.packed, first, last, canvas, left, top);
    } else {
        vertical_first(*kernels, image, *x.packed, *y.packed, first, last, canvas, left, top);
    }
}

}  // namespace rar

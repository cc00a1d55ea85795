#include "picture/resample_fused.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "base/aligned_buffer.h"

namespace rar {
namespace {

// The row groups between the passes. Only as many are kept as one output row needs beside a strip in the
// making, so that they stay in the first or second cache however tall the picture is.
class Ring {
public:
    Ring(std::int64_t slots, std::int64_t group_bytes)
        : slots_(slots), group_bytes_(group_bytes), buffer_(static_cast<std::size_t>(slots * group_bytes)) {}

    std::uint8_t* group(std::int64_t index) { return buffer_.data() + index % slots_ * group_bytes_; }

private:
    std::int64_t slots_;
    std::int64_t group_bytes_;
    AlignedBuffer buffer_;
};

std::int64_t most_groups(const PackedAxis& axis, std::int64_t first, std::int64_t last) {
    std::int64_t most = 1;
    for (std::int64_t i = first; i < last; ++i) most = std::max(most, axis.groups(i));
    return most;
}

}  // namespace

void resample_fused(const Kernels& kernels, const ImageView& image, const Overlay* overlay, const PackedAxis& x,
                    const PackedAxis& y, std::int64_t first, std::int64_t last, const Canvas& canvas, std::int64_t left,
                    std::int64_t top) {
    const std::int64_t pixels = x.source_last() - x.source_first();
    const std::int64_t turned = (pixels + kMaxLanes - 1) / kMaxLanes * kMaxLanes;
    const std::int64_t width = x.padded_size();
    const int strip_groups = kernels.lanes / kernels.taps;
    const std::int64_t most = most_groups(y, first, last);

    AlignedBuffer strip(static_cast<std::size_t>(turned / kernels.taps * kGroupBytes * kChannels * kernels.lanes));
    const std::int64_t scratch_bytes = overlay == nullptr ? 0 : pixels * kChannels;
    AlignedBuffer scratch(static_cast<std::size_t>(kernels.lanes * scratch_bytes));
    Ring ring(most + strip_groups, width * kChannels * kGroupBytes);
    std::vector<const std::uint8_t*> window(static_cast<std::size_t>(most));

    std::int64_t ready = first < last ? y.first_group(first) : 0;  // groups before this one are, or were, in the ring
    for (std::int64_t i = first; i < last; ++i) {
        const std::int64_t begin = y.first_group(i);
        const std::int64_t count = y.groups(i);
        for (; ready < begin + count; ready += strip_groups) {
            const std::uint8_t* rows[kMaxLanes];
            for (int lane = 0; lane < kernels.lanes; ++lane) {
                // Rows past the last are never weighed; any that can be read will do.
                const std::int64_t row = y.source_first() + ready * kernels.taps + lane;
                rows[lane] = overlaid_row(image, overlay, std::min(row, y.source_last() - 1), x.source_first(),
                                          x.source_last(), scratch.data() + lane * scratch_bytes);
            }
            std::uint8_t* groups[kMaxLanes / kMinTaps];
            for (int group = 0; group < strip_groups; ++group) groups[group] = ring.group(ready + group);
            kernels.turn(rows, pixels, strip.data());
            kernels.horizontal(strip.data(), x.weights(), width, groups);
        }
        for (std::int64_t group = 0; group < count; ++group) {
            window[static_cast<std::size_t>(group)] = ring.group(begin + group);
        }
        const RowTarget target = canvas.at(left, top + i);
        const auto write = [&](std::int64_t from, std::int64_t to) {
            kernels.vertical(window.data(), count, y.words(i), width, from - left, to - left, target);
        };
        if (canvas.wanted == nullptr) {
            write(left, left + x.size());
        } else {
            canvas.wanted->runs(top + i, left, left + x.size(), write);
        }
    }
    if (canvas.streamed) kernels.settle();
}

}  // namespace rar

#include "packed_axis.h"

namespace rar {

PackedAxis::PackedAxis(const Axis& axis, const Kernels& kernels)
    : size_(axis.size()),
      source_first_(axis.source_first),
      source_last_(axis.source_last),
      words_per_group_(kernels.words),
      offsets_{0} {
    for (std::int64_t i = 0; i < size_; ++i) {
        const std::int64_t begin = axis.starts[i] - source_first_;
        const std::int64_t taps = axis.offsets[i + 1] - axis.offsets[i];
        const std::int64_t first = begin / 4;
        const std::int64_t count = (begin + taps + 3) / 4 - first;
        first_group_.push_back(static_cast<std::int32_t>(first));
        offsets_.push_back(offsets_.back() + count);
        for (std::int64_t group = first; group < first + count; ++group) {
            std::int32_t four[4];
            for (std::int64_t lane = 0; lane < 4; ++lane) {
                const std::int64_t tap = group * 4 + lane - begin;
                four[lane] = tap >= 0 && tap < taps ? axis.weights[axis.offsets[i] + tap] : 0;
            }
            words_.resize(words_.size() + static_cast<std::size_t>(words_per_group_));
            kernels.pack_weights(four, words_.data() + words_.size() - words_per_group_);
        }
    }
    const std::int64_t padded = (size_ + kWidthStep - 1) / kWidthStep * kWidthStep;
    first_group_.resize(static_cast<std::size_t>(padded), 0);
    offsets_.resize(static_cast<std::size_t>(padded) + 1, offsets_.back());
}

}  // namespace rar

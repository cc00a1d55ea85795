#include "picture/packed_axis.h"

namespace rar {

PackedAxis::PackedAxis(const Axis& axis, const Kernels& kernels)
    : size_(axis.size()),
      source_first_(axis.source_first),
      source_last_(axis.source_last),
      words_per_group_(kernels.words),
      offsets_{0} {
    const std::int64_t group = kernels.taps;
    const std::int64_t padded = (size_ + kWidthStep - 1) / kWidthStep * kWidthStep;
    first_group_.reserve(static_cast<std::size_t>(padded));
    offsets_.reserve(static_cast<std::size_t>(padded) + 1);
    for (std::int64_t i = 0; i < size_; ++i) {
        const std::int64_t begin = axis.starts[i] - source_first_;
        const std::int64_t end = begin + axis.offsets[i + 1] - axis.offsets[i];
        first_group_.push_back(static_cast<std::int32_t>(begin / group));
        offsets_.push_back(offsets_.back() + (end + group - 1) / group - begin / group);
    }
    words_.resize(static_cast<std::size_t>(offsets_.back() * words_per_group_));
    std::uint32_t* words = words_.data();
    for (std::int64_t i = 0; i < size_; ++i) {
        const std::int32_t* weights = axis.weights.data() + axis.offsets[i];
        const std::int64_t taps = axis.offsets[i + 1] - axis.offsets[i];
        // Tap 0 of the first group may lie before the first pixel that counts.
        std::int64_t tap = first_group(i) * group - (axis.starts[i] - source_first_);
        for (; tap < taps; tap += group, words += words_per_group_) {
            std::int32_t grouped[kMaxTaps];
            for (std::int64_t one = 0; one < group; ++one) {
                grouped[one] = tap + one >= 0 && tap + one < taps ? weights[tap + one] : 0;
            }
            kernels.pack_weights(grouped, words);
        }
    }
    first_group_.resize(static_cast<std::size_t>(padded), 0);
    offsets_.resize(static_cast<std::size_t>(padded) + 1, offsets_.back());
}

}  // namespace rar

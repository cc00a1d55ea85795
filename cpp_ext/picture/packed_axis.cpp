#include "picture/packed_axis.h"

namespace rar {

PackedAxis::PackedAxis(const Axis& axis, const Kernels& kernels)
    : size_(axis.size()),
      source_first_(axis.source_first),
      source_last_(axis.source_last),
      words_per_group_(kernels.words),
      offsets_{0} {
    const std::int64_t padded = (size_ + kWidthStep - 1) / kWidthStep * kWidthStep;
    first_group_.reserve(static_cast<std::size_t>(padded));
    offsets_.reserve(static_cast<std::size_t>(padded) + 1);
    for (std::int64_t i = 0; i < size_; ++i) {
        const std::int64_t begin = axis.starts[i] - source_first_;
        const std::int64_t end = begin + axis.offsets[i + 1] - axis.offsets[i];
        first_group_.push_back(static_cast<std::int32_t>(begin / 4));
        offsets_.push_back(offsets_.back() + (end + 3) / 4 - begin / 4);
    }
    words_.resize(static_cast<std::size_t>(offsets_.back() * words_per_group_));
    std::uint32_t* words = words_.data();
    for (std::int64_t i = 0; i < size_; ++i) {
        const std::int32_t* weights = axis.weights.data() + axis.offsets[i];
        const std::int64_t taps = axis.offsets[i + 1] - axis.offsets[i];
        // Tap 0 of the first group lies up to three pixels before the first that counts.
        std::int64_t tap = first_group(i) * 4 - (axis.starts[i] - source_first_);
        for (; tap < taps; tap += 4, words += words_per_group_) {
            std::int32_t four[4];
            for (int lane = 0; lane < 4; ++lane) {
                four[lane] = tap + lane >= 0 && tap + lane < taps ? weights[tap + lane] : 0;
            }
            kernels.pack_weights(four, words);
        }
    }
    first_group_.resize(static_cast<std::size_t>(padded), 0);
    offsets_.resize(static_cast<std::size_t>(padded) + 1, offsets_.back());
}

}  // namespace rar

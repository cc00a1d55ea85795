// An axis in the form of one instruction set.
#pragma once

#include <cstdint>
#include <vector>

#include "picture/axis.h"
#include "picture/kernels.h"

namespace rar {

class PackedAxis {
public:
    PackedAxis(const Axis& axis, const Kernels& kernels);

    std::int64_t size() const { return size_; }
    std::int64_t source_first() const { return source_first_; }
    std::int64_t source_last() const { return source_last_; }

    // Output pixels from size() up to the next multiple of kWidthStep take no source.
    std::int64_t padded_size() const { return static_cast<std::int64_t>(first_group_.size()); }
    PackedWeights weights() const { return {first_group_.data(), offsets_.data(), words_.data()}; }

    std::int64_t first_group(std::int64_t i) const { return first_group_[static_cast<std::size_t>(i)]; }
    std::int64_t groups(std::int64_t i) const {
        return offsets_[static_cast<std::size_t>(i) + 1] - offsets_[static_cast<std::size_t>(i)];
    }
    const std::uint32_t* words(std::int64_t i) const {
        return words_.data() + offsets_[static_cast<std::size_t>(i)] * words_per_group_;
    }

private:
    std::int64_t size_;
    std::int64_t source_first_;
    std::int64_t source_last_;
    int words_per_group_;
    std::vector<std::int32_t> first_group_;
    std::vector<std::int64_t> offsets_;
    std::vector<std::uint32_t> words_;
};

}  // namespace rar

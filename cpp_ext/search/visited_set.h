// The slots that a walk has seen: a bit each, and in the order they came, by which the bits are cleared again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rar {

class VisitedSet {
public:
    // For slots below `size`.
    void reset(std::int64_t size) {
        for (std::size_t i = 0; i < count_; ++i) bits_[slots_[i] / 64] = 0;
        count_ = 0;
        const auto words = static_cast<std::size_t>(size / 64 + 1);
        if (bits_.size() < words) bits_.resize(words);
    }

    std::size_t count() const { return count_; }
    // Slots from number `first` on; valid until the next insert().
    const std::uint32_t* slots(std::size_t first) const { return slots_.data() + first; }

    // Adds those of `count` slots that are not in the set yet. It has no branches, because they would be mispredicted.
    void insert(const std::uint32_t* slots, std::size_t count) {
        if (slots_.size() < count_ + count) slots_.resize(2 * (count_ + count));
        std::uint64_t* const bits = bits_.data();
        std::uint32_t* const fresh = slots_.data();
        std::size_t at = count_;
        for (std::size_t i = 0; i < count; ++i) {
            const std::uint32_t slot = slots[i];
            const std::uint64_t word = bits[slot / 64];
            fresh[at] = slot;
            at += 1 - (word >> (slot % 64) & 1);
            bits[slot / 64] = word | std::uint64_t{1} << (slot % 64);
        }
        count_ = at;
    }

private:
    std::vector<std::uint64_t> bits_;
    std::vector<std::uint32_t> slots_;
    std::size_t count_ = 0;
};

}  // namespace rar

// The slots that a walk has seen: a bit each, of which only those set are cleared for the next walk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rar {

class VisitedSet {
public:
    // For slots below `size`.
    void reset(std::int64_t size) {
        for (const std::uint32_t word : touched_) words_[word] = 0;
        touched_.clear();
        const auto words = static_cast<std::size_t>(size / 64 + 1);
        if (words_.size() < words) words_.resize(words);
    }

    // Whether it was not there.
    bool insert(std::uint32_t slot) {
        std::uint64_t& word = words_[slot / 64];
        const std::uint64_t bit = std::uint64_t{1} << (slot % 64);
        if ((word & bit) != 0) return false;
        if (word == 0) touched_.push_back(slot / 64);
        word |= bit;
        return true;
    }

    void prefetch(std::uint32_t slot) const { __builtin_prefetch(&words_[slot / 64]); }

private:
    std::vector<std::uint64_t> words_;
    std::vector<std::uint32_t> touched_;
};

}  // namespace rar

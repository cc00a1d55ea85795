// Distances and what they belong to in one number each, so that comparing and keeping the best is integer work and
// equal distances have one order.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace rar {

// A distance in the upper half, a slot or an entry in the lower; ascending, the lower number first among equals.
// NaN, which only altered files bring forth, is farthest.
using Ranked = std::uint64_t;

inline Ranked ranked(float distance, std::uint32_t number) {
    constexpr std::uint32_t kSign = 0x80000000;
    constexpr std::uint32_t kInfinity = 0x7f800000;
    std::uint32_t bits;
    std::memcpy(&bits, &distance, sizeof bits);
    bits = (bits & ~kSign) > kInfinity ? kInfinity : bits;
    bits ^= (bits & kSign) != 0 ? ~std::uint32_t{0} : kSign;
    return static_cast<Ranked>(bits) << 32 | number;
}

inline std::uint32_t number_of(Ranked one) { return static_cast<std::uint32_t>(one); }

inline std::uint32_t rank_of(Ranked one) { return static_cast<std::uint32_t>(one >> 32); }

inline float distance_of(Ranked one) {
    std::uint32_t bits = rank_of(one);
    bits ^= (bits >> 31) != 0 ? 0x80000000u : 0xffffffffu;
    float distance;
    std::memcpy(&distance, &bits, sizeof distance);
    return distance;
}

// The least of what is added, up to a limit.
class Nearest {
public:
    // A limit of 0 is for those who add nothing.
    void reset(std::size_t limit) {
        kept_.clear();
        limit_ = limit;
    }

    bool full() const { return kept_.size() == limit_; }
    Ranked farthest() const { return kept_.front(); }  // of those kept, which must be some

    void add(Ranked one) {
        if (full()) {
            if (one >= kept_.front()) return;
            std::pop_heap(kept_.begin(), kept_.end());
            kept_.back() = one;
        } else {
            kept_.push_back(one);
        }
        std::push_heap(kept_.begin(), kept_.end());
    }

    // Ascending. Nothing is to be added after.
    const std::vector<Ranked>& sorted() {
        std::sort_heap(kept_.begin(), kept_.end());
        return kept_;
    }

private:
    std::vector<Ranked> kept_;  // a heap, the farthest first
    std::size_t limit_ = 0;
};

}  // namespace rar

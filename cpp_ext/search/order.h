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

// The least of what is added, up to a limit; and, where there is a cap, up to so many of each class.
class Nearest {
public:
    // A limit of 0 holds nothing; a cap of 0 means no cap.
    void reset(std::size_t limit, std::size_t cap = 0) {
        kept_.clear();
        labels_.clear();
        limit_ = limit;
        cap_ = cap;
    }

    bool full() const { return kept_.size() == limit_; }
    // The farthest entry kept; there must be one. Once the order is full, this distance never grows.
    Ranked farthest() const { return cap_ != 0 ? kept_.back() : kept_.front(); }

    void add(Ranked one, std::int32_t label) {
        if (cap_ != 0) {
            add_capped(one, label);
            return;
        }
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
        if (cap_ == 0) std::sort_heap(kept_.begin(), kept_.end());
        return kept_;
    }

private:
    // What a walk adds comes nearly in order, so that few places from the end are looked at.
    void add_capped(Ranked one, std::int32_t label) {
        if (full() && one >= kept_.back()) return;
        const bool crowded =
            static_cast<std::size_t>(std::count(labels_.begin(), labels_.end(), label)) >= cap_;
        std::size_t gone = kept_.size();  // the entry to replace: for a full class, the class's own farthest
        std::size_t at = kept_.size();
        for (; at > 0 && kept_[at - 1] > one; --at) {
            if (crowded && gone == kept_.size() && labels_[at - 1] == label) gone = at - 1;
        }
        if (crowded && gone == kept_.size()) return;
        if (!crowded && full()) --gone;
        if (gone == kept_.size()) {
            kept_.push_back(one);
            labels_.push_back(label);
        }
        std::copy_backward(kept_.begin() + step(at), kept_.begin() + step(gone), kept_.begin() + step(gone + 1));
        std::copy_backward(labels_.begin() + step(at), labels_.begin() + step(gone), labels_.begin() + step(gone + 1));
        kept_[at] = one;
        labels_[at] = label;
    }

    static std::ptrdiff_t step(std::size_t at) { return static_cast<std::ptrdiff_t>(at); }

    std::vector<Ranked> kept_;          // a heap, the farthest first; ascending where there is a cap
    std::vector<std::int32_t> labels_;  // labels of the entries kept, if there is a cap
    std::size_t limit_ = 0;
    std::size_t cap_ = 0;
};

}  // namespace rar

// Which entries count in a search.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rar {

// An entry counts if it has a class, and that is allowed. The arrays are the caller's, who may relabel entries while
// a search runs: each value is read once and checked.
class EntryFilter {
public:
    // Null allowed: every class is. Throws std::invalid_argument where `allowed` is empty.
    EntryFilter(const std::int32_t* labels, std::int64_t entries, const std::uint8_t* allowed, std::int64_t classes);

    std::int64_t entries() const { return entries_; }
    void prefetch(std::int64_t entry) const { __builtin_prefetch(labels_ + entry); }

    // The class of an entry below entries() if it counts, -1 if not. Throws std::invalid_argument for one of a class
    // that `allowed` does not tell of.
    std::int32_t label(std::int64_t entry) const {
        const std::int32_t label = __atomic_load_n(labels_ + entry, __ATOMIC_RELAXED);
        if (label >= classes_) refuse(entry, label);
        return label >= 0 && (allowed_ == nullptr || allowed_[label] != 0) ? label : -1;
    }

    // Those of the entries from `first` up to `last` that count, to `out`, which has room for all; returns how many.
    std::size_t select(std::int64_t first, std::int64_t last, std::uint32_t* out) const;

private:
    [[noreturn]] static void refuse(std::int64_t entry, std::int32_t label);

    const std::int32_t* labels_;
    std::int64_t entries_;
    const std::uint8_t* allowed_;
    std::int64_t classes_;  // above any label where all are allowed
};

}  // namespace rar

// Which entries count in a search.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace rar {

// An entry counts if it has a class, and that is allowed. The arrays are the caller's, who may relabel entries while
// a search runs: each value is read once and checked.
class EntryFilter {
public:
    // Null allowed: every class is.
    EntryFilter(const std::int32_t* labels, std::int64_t entries, const std::uint8_t* allowed, std::int64_t classes)
        : labels_(labels), entries_(entries), allowed_(allowed), classes_(classes) {}

    std::int64_t entries() const { return entries_; }

    void prefetch(std::int64_t entry) const { __builtin_prefetch(labels_ + entry); }

    // For entries below entries().
    bool counts(std::int64_t entry) const {
        const std::int32_t label = __atomic_load_n(labels_ + entry, __ATOMIC_RELAXED);
        if (label < 0 || allowed_ == nullptr) return label >= 0;
        if (label >= classes_) {
            throw std::invalid_argument("entry " + std::to_string(entry) + " is of class " + std::to_string(label) +
                                        ", but `allowed` tells of " + std::to_string(classes_));
        }
        return allowed_[label] != 0;
    }

private:
    const std::int32_t* labels_;
    std::int64_t entries_;
    const std::uint8_t* allowed_;
    std::int64_t classes_;
};

}  // namespace rar

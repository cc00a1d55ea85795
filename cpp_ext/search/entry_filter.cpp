#include "search/entry_filter.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

namespace rar {

EntryFilter::EntryFilter(const std::int32_t* labels, std::int64_t entries, const std::uint8_t* allowed,
                         std::int64_t classes)
    : labels_(labels),
      entries_(entries),
      allowed_(allowed),
      classes_(allowed == nullptr ? std::numeric_limits<std::int64_t>::max() : classes) {
    if (classes_ < 1) throw std::invalid_argument("`allowed` tells of no class");
}

std::size_t EntryFilter::select(std::int64_t first, std::int64_t last, std::uint32_t* out) const {
    std::size_t count = 0;
    for (std::int64_t entry = first; entry < last; ++entry) {
        const std::int32_t label = __atomic_load_n(labels_ + entry, __ATOMIC_RELAXED);
        if (label >= classes_) refuse(entry, label);
        // No branch, for which entries count cannot be foretold.
        const bool may = allowed_ == nullptr || allowed_[std::max(label, 0)] != 0;
        out[count] = static_cast<std::uint32_t>(entry);
        count += static_cast<std::size_t>(may) & static_cast<std::size_t>(label >= 0);
    }
    return count;
}

void EntryFilter::refuse(std::int64_t entry, std::int32_t label) {
    throw std::invalid_argument("entry " + std::to_string(entry) + " is of class " + std::to_string(label) +
                                ", which `allowed` does not tell of");
}

}  // namespace rar

#include "picture/axis_cache.h"

namespace rar {
namespace {

constexpr std::size_t kBudget = 16 << 20;

}  // namespace

std::shared_ptr<const AxisPlan> AxisCache::get(std::int64_t in, std::int64_t out, std::int64_t first,
                                               std::int64_t count) {
    const Key key{in, out, first, count};
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto found = index_.find(key);
        if (found != index_.end()) {
            entries_.splice(entries_.begin(), entries_, found->second);
            return found->second->second;
        }
    }
    // Computed outside the lock: two threads may both compute it, but neither waits for the other's picture.
    const auto plan = std::make_shared<const AxisPlan>(resize_axis(in, out, first, count, filter_), kernels_);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (plan->bytes <= kBudget && index_.find(key) == index_.end()) {
        entries_.emplace_front(key, plan);
        index_[key] = entries_.begin();
        bytes_ += plan->bytes;
        while (bytes_ > kBudget) {
            bytes_ -= entries_.back().second->bytes;
            index_.erase(entries_.back().first);
            entries_.pop_back();
        }
    }
    return plan;
}

}  // namespace rar

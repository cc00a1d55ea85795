#include "shared_pool.h"

#include <map>
#include <memory>
#include <mutex>

namespace rar {

ThreadPool& shared_pool(int threads) {
    static std::mutex mutex;
    // Never destroyed: a thread of Python's may still search while the process ends.
    static auto* const pools = new std::map<int, std::unique_ptr<ThreadPool>>();
    const std::lock_guard<std::mutex> lock(mutex);
    std::unique_ptr<ThreadPool>& pool = (*pools)[threads];
    if (!pool) pool = std::make_unique<ThreadPool>(threads);
    return *pool;
}

}  // namespace rar

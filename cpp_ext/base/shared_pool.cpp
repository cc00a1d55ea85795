#include "base/shared_pool.h"

#include <pthread.h>

#include <map>
#include <memory>
#include <mutex>

namespace rar {

namespace {

std::mutex mutex;

}  // namespace

ThreadPool& shared_pool(int threads) {
    // A process that forks holds the mutex meanwhile, so that its child does not find it locked by a thread that it does
    // not have.
    static const int once = pthread_atfork([] { mutex.lock(); }, [] { mutex.unlock(); }, [] { mutex.unlock(); });
    static_cast<void>(once);
    // Never destroyed: a thread of Python's may still search while the process ends.
    static auto* const pools = new std::map<int, std::unique_ptr<ThreadPool>>();
    const std::lock_guard<std::mutex> lock(mutex);
    std::unique_ptr<ThreadPool>& pool = (*pools)[threads];
    if (!pool) pool = std::make_unique<ThreadPool>(threads);
    return *pool;
}

}  // namespace rar

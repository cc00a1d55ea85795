#include "thread_pool.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>

namespace rar {
namespace {

// The others' last tasks end within about the time it takes to fall asleep and be woken, so that a caller looks for
// that long first.
constexpr std::chrono::microseconds kPatience{100};

}  // namespace

struct ThreadPool::Job {
    Job(std::size_t n, const std::function<void(std::size_t)>& t) : count(n), task(t) {}

    const std::size_t count;
    const std::function<void(std::size_t)>& task;  // outlives the job's last task: run() waits for it
    std::atomic<std::size_t> next{0};
    std::mutex mutex;
    std::condition_variable idle;
    std::atomic<int> helpers{0};  // changed under the mutex
    std::exception_ptr error;
};

ThreadPool::ThreadPool(int threads) : threads_(threads) {}

ThreadPool::~ThreadPool() {
    if (owner_ != getpid()) {  // a forked child: the threads are the parent's
        for (std::thread& worker : workers_) worker.detach();
        return;
    }
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(std::size_t count, const std::function<void(std::size_t)>& task) {
    const auto job = std::make_shared<Job>(count, task);
    const bool shared = threads_ > 1 && count > 1;
    if (shared) {
        const std::lock_guard<std::mutex> lock(mutex_);
        start_workers();
        jobs_.push_back(job);
    }
    if (shared) wake_.notify_all();
    help(*job);
    if (shared) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            jobs_.erase(std::remove(jobs_.begin(), jobs_.end(), job), jobs_.end());
        }
        await_helpers(*job);
    }
    if (job->error) std::rethrow_exception(job->error);
}

// Under mutex_. Late, so that a pool that only ever sees single pictures costs no thread.
void ThreadPool::start_workers() {
    if (owner_ == getpid() || !workers_.empty()) return;
    owner_ = getpid();
    for (int i = 1; i < threads_; ++i) workers_.emplace_back([this] { work(); });
}

void ThreadPool::work() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        wake_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
        if (stop_) return;
        const std::shared_ptr<Job> job = jobs_.front();
        {
            const std::lock_guard<std::mutex> own(job->mutex);
            ++job->helpers;
        }
        lock.unlock();
        help(*job);
        lock.lock();
        // All its tasks are taken: nobody else need look at it.
        jobs_.erase(std::remove(jobs_.begin(), jobs_.end(), job), jobs_.end());
        {
            const std::lock_guard<std::mutex> own(job->mutex);
            --job->helpers;
        }
        job->idle.notify_one();
    }
}

void ThreadPool::await_helpers(Job& job) {
    const auto until = std::chrono::steady_clock::now() + kPatience;
    while (job.helpers != 0 && std::chrono::steady_clock::now() < until) {
    }
    std::unique_lock<std::mutex> lock(job.mutex);
    job.idle.wait(lock, [&] { return job.helpers == 0; });
}

void ThreadPool::help(Job& job) {
    for (std::size_t i = job.next++; i < job.count; i = job.next++) {
        try {
            job.task(i);
        } catch (...) {
            job.next = job.count;
            const std::lock_guard<std::mutex> lock(job.mutex);
            if (!job.error) job.error = std::current_exception();
        }
    }
}

}  // namespace rar

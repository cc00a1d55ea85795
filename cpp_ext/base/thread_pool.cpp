#include "base/thread_pool.h"

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

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

// The threads of one process, and what they share with its callers.
struct ThreadPool::Crew {
    void start(int threads);
    void work();

    const pid_t owner = getpid();
    std::mutex mutex;
    std::condition_variable wake;
    std::deque<std::shared_ptr<Job>> jobs;
    std::vector<std::thread> workers;
    bool stop = false;
};

ThreadPool::ThreadPool(int threads) : threads_(threads), crew_(new Crew) {}

ThreadPool::~ThreadPool() {
    Crew* const crew = crew_;
    // In a forked child the crew's threads are not there, but their traces are: the mutex may be locked for ever, and
    // the destructors of the condition and of the threads would wait for them. So it is never destroyed.
    if (crew->owner != getpid()) return;
    {
        const std::lock_guard<std::mutex> lock(crew->mutex);
        crew->stop = true;
    }
    crew->wake.notify_all();
    for (std::thread& worker : crew->workers) worker.join();
    delete crew;
}

// This process's crew: a forked child leaves its parent's as it is.
ThreadPool::Crew& ThreadPool::crew() {
    Crew* crew = crew_;
    if (crew->owner == getpid()) return *crew;
    auto own = std::make_unique<Crew>();
    // Another thread of the child may have been faster.
    return crew_.compare_exchange_strong(crew, own.get()) ? *own.release() : *crew;
}

void ThreadPool::run(std::size_t count, const std::function<void(std::size_t)>& task) {
    const auto job = std::make_shared<Job>(count, task);
    Crew* const shared = threads_ > 1 && count > 1 ? &crew() : nullptr;
    if (shared) {
        const std::lock_guard<std::mutex> lock(shared->mutex);
        shared->start(threads_);
        shared->jobs.push_back(job);
    }
    if (shared) shared->wake.notify_all();
    help(*job);
    if (shared) {
        {
            const std::lock_guard<std::mutex> lock(shared->mutex);
            std::deque<std::shared_ptr<Job>>& jobs = shared->jobs;
            jobs.erase(std::remove(jobs.begin(), jobs.end(), job), jobs.end());
        }
        await_helpers(*job);
    }
    if (job->error) std::rethrow_exception(job->error);
}

// Under the mutex. Late, so that a pool that only ever sees single pictures costs no thread.
void ThreadPool::Crew::start(int threads) {
    if (!workers.empty()) return;
    for (int i = 1; i < threads; ++i) workers.emplace_back([this] { work(); });
}

void ThreadPool::Crew::work() {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
        wake.wait(lock, [this] { return stop || !jobs.empty(); });
        if (stop) return;
        const std::shared_ptr<Job> job = jobs.front();
        {
            const std::lock_guard<std::mutex> own(job->mutex);
            ++job->helpers;
        }
        lock.unlock();
        help(*job);
        lock.lock();
        // All its tasks are taken: nobody else need look at it.
        jobs.erase(std::remove(jobs.begin(), jobs.end(), job), jobs.end());
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

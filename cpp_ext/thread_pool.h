// Threads that help the caller through a list of independent tasks.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace rar {

// The caller always works too, so a pool of one starts no thread, and a forked child, which has none of its
// parent's threads, still finishes its work. Any number of callers may run at once.
class ThreadPool {
public:
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int threads() const { return threads_; }

    // Calls task(0) … task(count - 1), each once, and returns when all are done. The first exception is
    // thrown again here; tasks that had not begun by then are left out.
    void run(std::size_t count, const std::function<void(std::size_t)>& task);

private:
    struct Job;

    void start_workers();
    void work();
    static void help(Job& job);
    static void await_helpers(Job& job);

    const int threads_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<std::shared_ptr<Job>> jobs_;
    std::vector<std::thread> workers_;
    pid_t owner_ = 0;  // the process the workers live in
    bool stop_ = false;
};

}  // namespace rar

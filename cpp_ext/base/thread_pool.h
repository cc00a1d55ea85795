// Threads that help the caller through a list of independent tasks.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>

namespace rar {

// The caller always works too, so a pool of one starts no thread. A forked child, which has none of its parent's threads,
// gets threads of its own. Any number of callers may run at once.
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
    struct Crew;

    Crew& crew();
    static void help(Job& job);
    static void await_helpers(Job& job);

    const int threads_;
    std::atomic<Crew*> crew_;
};

}  // namespace rar

// Threads for calls that belong to no object.
#pragma once

#include "base/thread_pool.h"

namespace rar {

// The process's pool of so many threads; it starts them when they are first needed and keeps them.
ThreadPool& shared_pool(int threads);

}  // namespace rar

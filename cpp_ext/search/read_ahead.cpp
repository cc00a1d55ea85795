#include "search/read_ahead.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>

namespace rar {
namespace {

// Rows between two looks at the count of page faults: each costs as much as a few rows.
constexpr std::int64_t kBetween = 16;

// Pages that this thread had to wait for a disk for.
long major_faults() {
    rusage used{};
    return getrusage(RUSAGE_THREAD, &used) == 0 ? used.ru_majflt : 0;
}

void touch(const std::uint8_t* at) { static_cast<void>(*static_cast<const volatile std::uint8_t*>(at)); }

}  // namespace

void read_ahead(const std::uint8_t* const* rows, std::int64_t count, std::int64_t bytes) {
    const long before = major_faults();
    for (std::int64_t i = 0; i < count; ++i) {
        touch(rows[i]);
        touch(rows[i] + bytes - 1);
        if (i % kBetween != 0 || major_faults() == before) continue;
        static const auto page = static_cast<std::uintptr_t>(std::max(1L, sysconf(_SC_PAGESIZE)));
        for (++i; i < count; ++i) {
            const auto first = reinterpret_cast<std::uintptr_t>(rows[i]);
            const std::uintptr_t start = first / page * page;
            // A hint: where it is refused, reading waits as before.
            static_cast<void>(madvise(reinterpret_cast<void*>(start),
                                      static_cast<std::size_t>(first - start) + static_cast<std::size_t>(bytes),
                                      MADV_WILLNEED));
        }
    }
}

}  // namespace rar

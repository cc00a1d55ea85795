#include "dispatch.h"

#include <stdexcept>

namespace rar {
namespace {

struct Level {
    const char* name;
    const Kernels* kernels;
    const Distances* distances;
};

// Slowest first.
std::vector<Level> supported() {
    std::vector<Level> found{{"scalar", nullptr, scalar_distances()}};
    [[maybe_unused]] const auto add = [&](const Kernels* kernels, const Distances* distances) {
        found.push_back({kernels->name, kernels, distances});
    };
#if defined(__x86_64__)
    __builtin_cpu_init();
    // F16C is older than AVX2 and in every processor that has it; clang 14 cannot ask for it.
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        add(avx2_kernels(), avx2_distances());
        if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
            __builtin_cpu_supports("avx512vnni")) {
            add(avx512_kernels(), avx512_distances());
        }
    }
#elif defined(__aarch64__)
    add(neon_kernels(), neon_distances());  // part of every 64-bit ARM
#endif
    return found;
}

Level level_of(const std::string& name) {
    const std::vector<Level> found = supported();
    if (name.empty()) return found.back();
    std::string names;
    for (const Level& level : found) {
        if (name == level.name) return level;
        names += (names.empty() ? "" : ", ") + std::string(level.name);
    }
    throw std::invalid_argument("SIMD level '" + name + "' is not to be had here; there are " + names);
}

}  // namespace

std::vector<std::string> simd_levels() {
    std::vector<std::string> names;
    for (const Level& level : supported()) names.emplace_back(level.name);
    return names;
}

const Kernels* kernels_of(const std::string& level) { return level_of(level).kernels; }

const Distances* distances_of(const std::string& level) { return level_of(level).distances; }

}  // namespace rar

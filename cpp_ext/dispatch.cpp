#include "dispatch.h"

#include <stdexcept>

namespace rar {
namespace {

// Slowest first.
std::vector<const Kernels*> supported() {
    std::vector<const Kernels*> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
    // F16C is older than AVX2 and in every processor that has it; clang 14 cannot ask for it.
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        found.push_back(avx2_kernels());
        if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
            __builtin_cpu_supports("avx512vnni")) {
            found.push_back(avx512_kernels());
        }
    }
#elif defined(__aarch64__)
    found.push_back(neon_kernels());  // part of every 64-bit ARM
#endif
    return found;
}

}  // namespace

std::vector<std::string> simd_levels() {
    std::vector<std::string> names{"scalar"};
    for (const Kernels* kernels : supported()) names.emplace_back(kernels->name);
    return names;
}

const Kernels* kernels_of(const std::string& level) {
    const std::vector<const Kernels*> found = supported();
    if (level.empty()) return found.empty() ? nullptr : found.back();
    if (level == "scalar") return nullptr;
    std::string names = "scalar";
    for (const Kernels* kernels : found) {
        if (level == kernels->name) return kernels;
        names += std::string(", ") + kernels->name;
    }
    throw std::invalid_argument("SIMD level '" + level + "' is not to be had here; there are " + names);
}

}  // namespace rar

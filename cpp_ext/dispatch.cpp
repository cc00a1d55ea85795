#include "dispatch.h"

#include <algorithm>
#include <initializer_list>
#include <stdexcept>

#include "base/instruction_sets.h"

namespace rar {
namespace {

struct Level {
    const char* name;
    const Kernels* kernels;
    const Distances* distances;
};

// Slowest first. Older compilers lack the forms for dot and matrix products.
std::vector<Level> supported() {
    std::vector<Level> found{{"scalar", nullptr, scalar_distances()}};
    // Not `__builtin_cpu_supports`: it asks a library of the compiler's, and zig's says no to everything.
    const std::vector<std::string> sets = instruction_sets();
    [[maybe_unused]] const auto has = [&sets](std::initializer_list<const char*> names) {
        return std::all_of(names.begin(), names.end(),
                           [&sets](const char* name) { return std::find(sets.begin(), sets.end(), name) != sets.end(); });
    };
    [[maybe_unused]] const auto add = [&found](const Kernels* kernels, const Distances* distances) {
        found.push_back({kernels->name, kernels, distances});
    };
#if defined(__x86_64__)
    if (has({"avx2", "fma", "f16c"})) {
        add(avx2_kernels(), avx2_distances());
        if (has({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vbmi", "avx512_vnni"})) {
            add(avx512_kernels(), avx512_distances());
        }
    }
#elif defined(__aarch64__)
    add(neon_kernels(), neon_distances());  // part of every 64-bit ARM
    if (has({"dotprod"}) && dotprod_kernels() != nullptr) {
        add(dotprod_kernels(), dotprod_distances());
        if (has({"i8mm"}) && i8mm_kernels() != nullptr) add(i8mm_kernels(), dotprod_distances());
    }
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
    throw std::invalid_argument("SIMD level '" + name + "' is not available on this CPU; choose " + names);
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

#include "base/instruction_sets.h"

#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace rar {

#if defined(__x86_64__)

namespace {

struct Registers {
    std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// Zeros for a leaf that the processor does not have.
Registers cpuid(std::uint32_t leaf, std::uint32_t part) {
    Registers found;
    if (__get_cpuid_count(leaf, part, &found.eax, &found.ebx, &found.ecx, &found.edx) == 0) return {};
    return found;
}

// The registers that the operating system saves for a program.
std::uint64_t saved_state() {
    std::uint32_t low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<std::uint64_t>(high) << 32) | low;
}

constexpr bool bit(std::uint32_t word, int place) { return ((word >> place) & 1) != 0; }

}  // namespace

std::vector<std::string> instruction_sets() {
    const Registers basic = cpuid(1, 0), seven = cpuid(7, 0);
    const Registers more = seven.eax >= 1 ? cpuid(7, 1) : Registers{};
    constexpr int kOsSaves = 27;
    const std::uint64_t saved = bit(basic.ecx, kOsSaves) ? saved_state() : 0;
    const auto saves = [saved](std::uint64_t mask) { return (saved & mask) == mask; };
    // XMM and YMM; the masks and ZMM; the tiles.
    const bool wide = saves(0x6), widest = saves(0xE6), tiles = saves(0x60000);

    struct Set {
        const char* name;
        bool there;
    };
    const Set sets[] = {
        {"sse4_1", bit(basic.ecx, 19)},
        {"avx", wide && bit(basic.ecx, 28)},
        {"f16c", wide && bit(basic.ecx, 29)},
        {"fma", wide && bit(basic.ecx, 12)},
        {"avx2", wide && bit(seven.ebx, 5)},
        {"avx_vnni", wide && bit(more.eax, 4)},
        {"avx512f", widest && bit(seven.ebx, 16)},
        {"avx512bw", widest && bit(seven.ebx, 30)},
        {"avx512dq", widest && bit(seven.ebx, 17)},
        {"avx512vl", widest && bit(seven.ebx, 31)},
        {"avx512vbmi", widest && bit(seven.ecx, 1)},
        {"avx512_vnni", widest && bit(seven.ecx, 11)},
        {"avx512_bf16", widest && bit(more.eax, 5)},
        {"avx512_fp16", widest && bit(seven.edx, 23)},
        {"amx_tile", tiles && bit(seven.edx, 24)},
        {"amx_int8", tiles && bit(seven.edx, 25)},
        {"amx_bf16", tiles && bit(seven.edx, 22)},
    };
    std::vector<std::string> names;
    for (const Set& set : sets) {
        if (set.there) names.emplace_back(set.name);
    }
    return names;
}

#elif defined(__aarch64__)

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names{"neon"};  // part of every 64-bit ARM
#if defined(__linux__)
    struct Set {
        const char* name;
        unsigned long kind;  // AT_HWCAP or AT_HWCAP2
        int place;
    };
    const Set sets[] = {
        {"fp16", AT_HWCAP, 10}, {"dotprod", AT_HWCAP, 20}, {"i8mm", AT_HWCAP2, 13}, {"bf16", AT_HWCAP2, 14},
        {"sve", AT_HWCAP, 22},  {"sve2", AT_HWCAP2, 1},    {"sme", AT_HWCAP2, 23},
    };
    for (const Set& set : sets) {
        if (((getauxval(set.kind) >> set.place) & 1) != 0) names.emplace_back(set.name);
    }
#endif
    return names;
}

#else

std::vector<std::string> instruction_sets() { return {}; }

#endif

}  // namespace rar

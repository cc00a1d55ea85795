// Compiles all functions between RAR_TARGET_BEGIN and RAR_TARGET_END for an instruction set, whatever the
// build's own flags are. Standard headers come before BEGIN, and the functions stay in an anonymous namespace
// and use nothing inline of the library's: a copy built for AVX-512 must never be the one the linker keeps.
#pragma once

#define RAR_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define RAR_TARGET_BEGIN(isa) RAR_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define RAR_TARGET_END RAR_PRAGMA(clang attribute pop)
#else
#define RAR_TARGET_BEGIN(isa) RAR_PRAGMA(GCC push_options) RAR_PRAGMA(GCC target(isa))
#define RAR_TARGET_END RAR_PRAGMA(GCC pop_options)
#endif

// Whether the compiler is of these versions or later: older ones do not know every instruction set, or only the one
// that the whole build is for.
#if defined(__clang__)
#define RAR_COMPILER(gcc, clang) (__clang_major__ >= (clang))
#else
#define RAR_COMPILER(gcc, clang) (__GNUC__ >= (gcc))
#endif

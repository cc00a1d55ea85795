"""The instruction sets of this processor. Inference kernels are chosen by them, so measured figures depend on them."""

from __future__ import annotations

import platform
from functools import cache

from .. import _native

# Of x86: with one of them products of uint8 and int8 are summed in 32 bits, without in 16, with saturation.
VNNI = ("avx_vnni", "avx512_vnni")


@cache
def instruction_sets() -> tuple[str, ...]:
    """The instruction sets that this process may use and that kernels are chosen by.

    Returns:
        Linux's names on x86-64 (`avx2`, `avx512_vnni`, `amx_int8`, ...); on aarch64 `neon`, `fp16`, `dotprod`,
        `i8mm`, `bf16`, `sve`, `sve2` and `sme`. The processor itself is asked, so an emulator reports its own.
    """
    return tuple(_native.instruction_sets())


def describe() -> str:
    """Machine and instruction sets in one line, such as `x86_64 with sse4_1, avx, f16c, fma, avx2`."""
    return f"{platform.machine()} with {', '.join(instruction_sets()) or 'none that kernels are chosen by'}"

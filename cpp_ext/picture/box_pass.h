// One pass of Pillow's extended box filter over a block of lines, for every instruction set.
#pragma once

#include <cstdint>

#include "picture/kernels.h"

namespace rar {

// The plain form; the kernels have their own.
void box_pass(const std::uint8_t* in, std::uint8_t* out, std::int64_t count, const BoxWeights& weights);

}  // namespace rar

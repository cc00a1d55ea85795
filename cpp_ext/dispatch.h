// Which instruction set is used in this process.
#pragma once

#include <string>
#include <vector>

#include "picture/kernels.h"
#include "search/distance.h"

namespace rar {

// "scalar" and what this processor can run, slowest first.
std::vector<std::string> simd_levels();

// The resampler's kernels of a level; null for "scalar". An empty name is the fastest. Throws std::invalid_argument
// for a level that this build or this processor does not have.
const Kernels* kernels_of(const std::string& level);

// The same for comparing vectors; never null.
const Distances* distances_of(const std::string& level);

}  // namespace rar

// Rows of a mapped file that are not in memory yet are asked for together, not one page fault after the other.
#pragma once

#include <cstdint>

namespace rar {

// Brings rows into memory before they are read. Where they are there already, that is a touch of each and a few calls
// that cost a fraction of a microsecond; once one had to be read from the disk, the system is told of all that follow,
// so that a drive reads them side by side.
void read_ahead(const std::uint8_t* const* rows, std::int64_t count, std::int64_t bytes);

}  // namespace rar

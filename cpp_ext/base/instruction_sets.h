// Which instruction sets a program may use on this processor.
#pragma once

#include <string>
#include <vector>

namespace rar {

// Those that inference kernels are chosen by, under Linux's names on x86-64 and the architecture's on aarch64. Asked
// of the processor and the operating system themselves: an emulator or a container shows the host's /proc/cpuinfo.
std::vector<std::string> instruction_sets();

}  // namespace rar

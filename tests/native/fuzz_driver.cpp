// Feeds random inputs to the fuzz target if libFuzzer is not available.
//
//     fuzz SECONDS [SEED]
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int main(int argc, char** argv) {
    const double seconds = argc > 1 ? std::atof(argv[1]) : 10.0;
    const auto seed = argc > 2 ? static_cast<std::uint32_t>(std::atol(argv[2])) : std::random_device{}();
    std::printf("seed %u\n", seed);
    std::fflush(stdout);
    const auto start = std::chrono::steady_clock::now();
    std::uint32_t inputs = 0;
    for (; std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds; ++inputs) {
        std::mt19937 chance(seed + inputs);  // one input again: SECONDS 0.001, SEED seed + number
        std::vector<std::uint8_t> data(16 + chance() % 100);
        for (std::uint8_t& value : data) value = static_cast<std::uint8_t>(chance());
        LLVMFuzzerTestOneInput(data.data(), data.size());
    }
    std::printf("%u inputs, none failed\n", inputs);
    return 0;
}

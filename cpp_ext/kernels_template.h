// The kernels of kernels.h, written once over the few operations an instruction set differs in. Included, after
// the definition of `Isa`, inside the anonymous namespace of each kernels_*.cpp.
//
// Isa provides
//     Vector                       kLanes int32
//     kName, kLanes, kWords, pack_weights
//     kTurnPixels, kTurnSlack      pixels a turn takes of each row, bytes its loads go beyond them
//     Weights(words)               one group of four weights, the same for every lane
//     Sum                          starts at one half in fixed point; add(data, weights); value()
//     load(p)                      a whole vector
//     turn(rows, strip)            kTurnPixels of each row to [pixel group][channel][lane]
//     store_groups(v, groups, at)  the columns of four vectors as bytes, clipped, to each row group
//     clip(v)                      to 0 … 255
//     write(rgb, target, x, n)     n of kLanes clipped pixels

// The four-tap sums of the three channels; `data` yields the vectors of one group.
template <class Data>
inline void sum_groups(std::int64_t count, const std::uint32_t* words, const Data& data,
                       Isa::Vector result[kChannels]) {
    Isa::Sum red, green, blue;
    for (std::int64_t group = 0; group < count; ++group) {
        const Isa::Weights weights(words + group * Isa::kWords);
        red.add(Isa::load(data(group, 0)), weights);
        green.add(Isa::load(data(group, 1)), weights);
        blue.add(Isa::load(data(group, 2)), weights);
    }
    result[0] = red.value();
    result[1] = green.value();
    result[2] = blue.value();
}

void horizontal(const std::uint8_t* strip, const PackedWeights& weights, std::int64_t width,
                std::uint8_t* const* groups) {
    constexpr std::ptrdiff_t kVector = Isa::kLanes * 4;
    for (std::int64_t x = 0; x < width; x += 4) {
        Isa::Vector columns[4][kChannels];
        for (int i = 0; i < 4; ++i) {
            const std::int64_t offset = weights.offsets[x + i];
            const std::int64_t count = weights.offsets[x + i + 1] - offset;
            const std::uint8_t* source = strip + weights.first_group[x + i] * kVector * kChannels;
            const auto data = [source](std::int64_t group, int channel) {
                return source + (group * kChannels + channel) * kVector;
            };
            sum_groups(count, weights.words + offset * Isa::kWords, data, columns[i]);
        }
        for (int channel = 0; channel < kChannels; ++channel) {
            const Isa::Vector four[4] = {columns[0][channel], columns[1][channel], columns[2][channel],
                                         columns[3][channel]};
            Isa::store_groups(four, groups, (channel * width + x) * kRowsPerGroup);
        }
    }
}

void vertical(const std::uint8_t* const* groups, std::int64_t count, const std::uint32_t* words, std::int64_t width,
              std::int64_t kept, const RowTarget& target) {
    for (std::int64_t x = 0; x < kept; x += Isa::kLanes) {
        const auto data = [=](std::int64_t group, int channel) {
            return groups[group] + (channel * width + x) * kRowsPerGroup;
        };
        Isa::Vector rgb[kChannels];
        sum_groups(count, words, data, rgb);
        for (Isa::Vector& value : rgb) value = Isa::clip(value);
        const std::int64_t left = kept - x;
        Isa::write(rgb, target, x, left < Isa::kLanes ? static_cast<int>(left) : Isa::kLanes);
    }
}

void turn(const std::uint8_t* const* rows, std::int64_t pixels, std::uint8_t* strip) {
    constexpr std::ptrdiff_t kVector = Isa::kLanes * 4;
    constexpr std::int64_t kBlock = Isa::kTurnPixels;
    std::int64_t x = 0;
    const std::uint8_t* sources[Isa::kLanes];
    for (; (x + kBlock) * kChannels + Isa::kTurnSlack <= pixels * kChannels; x += kBlock) {
        for (int lane = 0; lane < Isa::kLanes; ++lane) sources[lane] = rows[lane] + x * kChannels;
        Isa::turn(sources, strip + x / 4 * kChannels * kVector);
    }
    // The rest of each row through a copy, so that no load passes the row's end.
    std::uint8_t copies[Isa::kLanes][Isa::kTurnPixels * kChannels + Isa::kTurnSlack];
    for (; x < pixels; x += kBlock) {
        for (int lane = 0; lane < Isa::kLanes; ++lane) {
            const std::int64_t left = (pixels - x) * kChannels;
            for (std::int64_t byte = 0; byte < static_cast<std::int64_t>(sizeof copies[lane]); ++byte) {
                copies[lane][byte] = byte < left ? rows[lane][x * kChannels + byte] : std::uint8_t{0};
            }
            sources[lane] = copies[lane];
        }
        Isa::turn(sources, strip + x / 4 * kChannels * kVector);
    }
}

#include "box_pass_template.h"

const Kernels kKernels{Isa::kName, Isa::kLanes, Isa::kWords, Isa::pack_weights,
                       turn,       horizontal,  vertical,    box_pass_lines};

// The kernels of kernels.h, written once over the few operations an instruction set differs in. Included, after
// the definition of `Isa`, inside the anonymous namespace of each kernels_*.cpp.
//
// Isa provides
//     Vector                       kLanes int32
//     kName, kLanes, kTaps, kWords, pack_weights
//     kTurnPixels, kTurnReads      pixels a turn takes of each row, the fewest bytes there must be to read
//     Weights(words)               one group of weights, the same for every lane
//     Sum                          starts at one half in fixed point; add(data, weights); value(), whole or as clip
//                                  and store_groups take it
//     load(p)                      a whole vector
//     turn(rows, at, bytes, strip) kTurnPixels of each row from byte `at` to [pixel group][channel][lane]; reads no
//                                  more than `bytes` and takes what is missing as zero
//     store_groups(v, groups, at)  the columns of four vectors, clipped, to each row group
//     clip(v)                      to 0 … 255
//     multiplied(v, c, scaling)    clipped values normalised for channel c, where the inverse is exact
//     divided(v, c, scaling)       the same by division
//     box_pass                     see Kernels
//     write_bytes(rgb, out, n)     n of kLanes clipped pixels; write_floats, write_halves: n values of a plane

// The sums of the three channels; `data` yields the vectors of one group.
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
    static constexpr std::ptrdiff_t kVector = Isa::kLanes * kGroupBytes;
    const auto column = [&](std::int64_t x, Isa::Vector result[kChannels]) {
        const std::int64_t offset = weights.offsets[x];
        const std::uint8_t* source = strip + weights.first_group[x] * kVector * kChannels;
        const auto data = [source](std::int64_t group, int channel) {
            return source + (group * kChannels + channel) * kVector;
        };
        sum_groups(weights.offsets[x + 1] - offset, weights.words + offset * Isa::kWords, data, result);
    };
    for (std::int64_t x = 0; x < width; x += 4) {
        Isa::Vector a[kChannels], b[kChannels], c[kChannels], d[kChannels];  // not a loop: they stay in registers
        column(x, a);
        column(x + 1, b);
        column(x + 2, c);
        column(x + 3, d);
        for (int channel = 0; channel < kChannels; ++channel) {
            const Isa::Vector four[4] = {a[channel], b[channel], c[channel], d[channel]};
            Isa::store_groups(four, groups, (channel * width + x) * kGroupBytes);
        }
    }
}

template <class Write>
inline void vertical_to(const std::uint8_t* const* groups, std::int64_t count, const std::uint32_t* words,
                        std::int64_t width, std::int64_t first, std::int64_t last, const Write& write) {
    for (std::int64_t x = first; x < last; x += Isa::kLanes) {
        const auto data = [=](std::int64_t group, int channel) {
            return groups[group] + (channel * width + x) * kGroupBytes;
        };
        Isa::Vector rgb[kChannels];
        sum_groups(count, words, data, rgb);
        for (Isa::Vector& value : rgb) value = Isa::clip(value);
        const std::int64_t left = last - x;
        write(rgb, x, left < Isa::kLanes ? static_cast<int>(left) : Isa::kLanes);
    }
}

void vertical(const std::uint8_t* const* groups, std::int64_t count, const std::uint32_t* words, std::int64_t width,
              std::int64_t first, std::int64_t last, const RowTarget& target) {
    const auto run = [&](const auto& write) { vertical_to(groups, count, words, width, first, last, write); };
    // A loop for each kind of result, which then has no branches.
    if (target.type == PixelType::kUint8) {
        run([to = target.channel[0]](const Isa::Vector* rgb, std::int64_t x, int n) {
            Isa::write_bytes(rgb, static_cast<std::uint8_t*>(to) + x * kChannels, n);
        });
        return;
    }
    const auto planes = [&](const auto& normalise) {
        if (target.streamed) {
            run([&](const Isa::Vector* rgb, std::int64_t x, int n) {
                for (int channel = 0; channel < kChannels; ++channel) {
                    Isa::stream_floats(normalise(rgb[channel], channel),
                                       static_cast<float*>(target.channel[channel]) + x, n);
                }
            });
        } else if (target.type == PixelType::kFloat32) {
            run([&](const Isa::Vector* rgb, std::int64_t x, int n) {
                for (int channel = 0; channel < kChannels; ++channel) {
                    Isa::write_floats(normalise(rgb[channel], channel),
                                      static_cast<float*>(target.channel[channel]) + x, n);
                }
            });
        } else {
            run([&](const Isa::Vector* rgb, std::int64_t x, int n) {
                for (int channel = 0; channel < kChannels; ++channel) {
                    Isa::write_halves(normalise(rgb[channel], channel),
                                      static_cast<std::uint16_t*>(target.channel[channel]) + x, n);
                }
            });
        }
    };
    const Scaling scaling = *target.scaling;  // a copy that no store of the result can change
    if (scaling.inverse_is_exact) {
        planes([&](Isa::Vector value, int channel) { return Isa::multiplied(value, channel, scaling); });
    } else {
        planes([&](Isa::Vector value, int channel) { return Isa::divided(value, channel, scaling); });
    }
}

void turn(const std::uint8_t* const* rows, std::int64_t pixels, std::uint8_t* strip) {
    constexpr std::ptrdiff_t kVector = Isa::kLanes * kGroupBytes;
    for (std::int64_t x = 0; x < pixels; x += Isa::kTurnPixels) {
        const std::int64_t left = (pixels - x) * kChannels;
        std::uint8_t* target = strip + x / Isa::kTaps * kChannels * kVector;
        if (left >= Isa::kTurnReads) {
            Isa::turn(rows, x * kChannels, left, target);
            continue;
        }
        // The end of each row through a copy, so that no load passes it.
        std::uint8_t copies[Isa::kLanes][Isa::kTurnReads] = {};
        const std::uint8_t* sources[Isa::kLanes];
        for (int lane = 0; lane < Isa::kLanes; ++lane) {
            __builtin_memcpy(copies[lane], rows[lane] + x * kChannels, static_cast<std::size_t>(left));
            sources[lane] = copies[lane];
        }
        Isa::turn(sources, 0, Isa::kTurnReads, target);
    }
}

const Kernels kKernels{Isa::kName, Isa::kLanes, Isa::kTaps,  Isa::kWords, Isa::pack_weights,
                       turn,       horizontal,  vertical,    Isa::settle, Isa::box_pass};

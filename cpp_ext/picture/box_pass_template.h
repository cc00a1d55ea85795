// Included inside the anonymous namespace of each instruction set: plain loops over lines that lie side by side,
// which the compiler turns to vectors. Sums are Pillow's, in the same unsigned 32-bit arithmetic.
// So many lines at a time that their sums stay in registers.
constexpr int kBlock = 32;

void box_pass_block(const std::uint8_t* in, std::uint8_t* out, std::int64_t count, const BoxWeights& weights) {
    const std::int64_t last = count - 1;
    const std::int64_t radius = weights.radius;
    const auto at = [&](std::int64_t position) {
        return in + (position < 0 ? 0 : position > last ? last : position) * kLines;
    };
    // The window around the position before the first one; its left half is the first pixel again and again.
    std::uint32_t sums[kBlock];
    const auto left_half = static_cast<std::uint32_t>(radius + 1);
    for (int line = 0; line < kBlock; ++line) sums[line] = in[line] * left_half;
    const std::int64_t inside = radius < last ? radius : last;
    for (std::int64_t position = 0; position < inside; ++position) {
        for (int line = 0; line < kBlock; ++line) sums[line] += at(position)[line];
    }
    const auto beyond = static_cast<std::uint32_t>(radius - inside);
    for (int line = 0; line < kBlock; ++line) sums[line] += at(last)[line] * beyond;

    for (std::int64_t position = 0; position < count; ++position) {
        const std::uint8_t* __restrict leaving = at(position - radius - 1);
        const std::uint8_t* __restrict entering = at(position + radius);
        const std::uint8_t* __restrict next = at(position + radius + 1);
        std::uint8_t* __restrict result = out + position * kLines;
        for (int line = 0; line < kBlock; ++line) {
            const std::uint32_t sum = sums[line] + entering[line] - leaving[line];
            const std::uint32_t ends = static_cast<std::uint32_t>(leaving[line]) + next[line];
            sums[line] = sum;
            result[line] = static_cast<std::uint8_t>((sum * weights.inner + ends * weights.outer + (1u << 23)) >> 24);
        }
    }
}

void box_pass_lines(const std::uint8_t* in, std::uint8_t* out, std::int64_t count, const BoxWeights& weights) {
    for (int line = 0; line < kLines; line += kBlock) box_pass_block(in + line, out + line, count, weights);
}

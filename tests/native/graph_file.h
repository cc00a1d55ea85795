// Writes the file that usearch 2 would save, from parts that need not make sense.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "search/scalar.h"

struct GraphFile {
    rar::Scalar scalar = rar::Scalar::kF32;
    std::uint64_t dim = 1;
    std::uint64_t connectivity = 2;
    std::vector<std::uint16_t> levels;  // a slot
    std::uint64_t entry = 0;
    // By the caller: the scalars of a row, the key of a slot and its links on a level.
    std::function<void(std::uint32_t, std::uint8_t*)> row;
    std::function<std::uint64_t(std::uint32_t)> key;
    std::function<std::vector<std::uint32_t>(std::uint32_t, int)> links;

    std::vector<std::uint8_t> bytes() const {
        constexpr std::uint8_t kKinds[rar::kScalars] = {11, 12, 23};
        const auto count = static_cast<std::uint32_t>(levels.size());
        const auto row_bytes = static_cast<std::uint32_t>(rar::bytes_of(scalar, static_cast<std::int64_t>(dim)));
        std::vector<std::uint8_t> out;
        put(out, count);
        put(out, row_bytes);
        for (std::uint32_t slot = 0; slot < count; ++slot) {
            std::vector<std::uint8_t> values(row_bytes);
            row(slot, values.data());
            out.insert(out.end(), values.begin(), values.end());
        }
        const std::size_t head = out.size();
        for (const char letter : std::string("usearch")) out.push_back(static_cast<std::uint8_t>(letter));
        for (const std::uint16_t version : {2, 23, 0}) put(out, version);
        out.push_back('e');
        for (const std::uint8_t kind : {kKinds[static_cast<int>(scalar)], std::uint8_t{14}, std::uint8_t{15}}) {
            out.push_back(kind);
        }
        put(out, std::uint64_t{count});
        put(out, std::uint64_t{0});
        put(out, dim);
        out.resize(head + 64);
        put(out, std::uint64_t{count});
        put(out, connectivity);
        put(out, 2 * connectivity);
        std::uint64_t highest = 0;
        for (const std::uint16_t level : levels) highest = level > highest ? level : highest;
        put(out, highest);
        put(out, entry);
        for (const std::uint16_t level : levels) put(out, level);
        for (std::uint32_t slot = 0; slot < count; ++slot) {
            put(out, key(slot));
            put(out, levels[slot]);
            for (int level = 0; level <= levels[slot]; ++level) {
                std::vector<std::uint32_t> linked = links(slot, level);
                put(out, static_cast<std::uint32_t>(linked.size()));
                linked.resize(level == 0 ? 2 * connectivity : connectivity);
                for (const std::uint32_t other : linked) put(out, other);
            }
        }
        return out;
    }

private:
    template <class Number>
    static void put(std::vector<std::uint8_t>& out, Number value) {
        std::uint8_t bytes[sizeof value];
        std::memcpy(bytes, &value, sizeof value);
        out.insert(out.end(), bytes, bytes + sizeof value);
    }
};

// Checks all of a graph's links and keys before the first search.
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "search/graph.h"

namespace rar {

void Graph::check(std::int64_t entries) const {
    std::vector<bool> seen(static_cast<std::size_t>(entries));
    std::vector<std::uint32_t> linked(most_links());
    for (std::uint32_t slot = 0; slot < size_; ++slot) {
        const auto refuse = [slot](const std::string& reason) {
            throw std::invalid_argument("slot " + std::to_string(slot) + " " + reason);
        };
        const std::uint64_t entry = key(slot);
        if (entry >= static_cast<std::uint64_t>(entries)) {
            refuse("has key " + std::to_string(entry) + ", but there are " + std::to_string(entries) + " entries");
        }
        if (seen[entry]) refuse("has key " + std::to_string(entry) + ", which another slot has too");
        seen[entry] = true;
        std::int16_t stored;
        std::memcpy(&stored, node(slot) + sizeof entry, sizeof stored);
        if (stored != level(slot)) refuse("has another level in its node than among the levels");
        for (int at = 0; at <= level(slot); ++at) {
            const std::size_t count = links(slot, at, linked.data());
            for (std::size_t i = 0; i < count; ++i) {
                if (level(linked[i]) < at) refuse("is linked with a slot that is not on its level");
            }
        }
    }
}

}  // namespace rar

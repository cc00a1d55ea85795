#include "picture/box_pass.h"

namespace rar {
namespace {

#include "picture/box_pass_template.h"

}  // namespace

void box_pass(const std::uint8_t* in, std::uint8_t* out, std::int64_t count, const BoxWeights& weights) {
    box_pass_lines(in, out, count, weights);
}

}  // namespace rar

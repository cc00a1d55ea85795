// A query as the comparison with one kind of rows takes it.
#pragma once

#include <cstdint>
#include <vector>

#include "search/distance.h"
#include "search/scalar.h"

namespace rar {

class QueryForm {
public:
    // Of float32 [dim], which is kept in sight: it is the form itself for most kinds.
    QueryForm(const Distances& distances, Scalar scalar, const float* query, std::int64_t dim);

    const void* data() const { return own_.empty() ? query_ : static_cast<const void*>(own_.data()); }

private:
    const float* query_;
    std::vector<std::uint8_t> own_;
};

}  // namespace rar

#include "search/query_form.h"

#include <cstddef>

namespace rar {
QueryForm::QueryForm(const Distances& distances, Scalar scalar, const float* query, std::int64_t dim) : query_(query) {
    if (scalar == Scalar::kI8 && distances.int8_form != nullptr) {
        own_.resize(static_cast<std::size_t>(distances.int8_form->bytes(dim)));
        distances.int8_form->make(query, dim, own_.data());
    }
}

}  // namespace rar

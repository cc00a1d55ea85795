// The functions of distance.h, written once over the few operations an instruction set differs in. Included, after
// the definition of `Isa`, inside the anonymous namespace of each distance_*.cpp.
//
// Isa provides
//     Vector                  kLanes float32
//     kLanes, kTileQueries    queries whose dot products with four rows are summed at a time
//     load(kind, p)           kLanes scalars from any address, widened
//     Tail(dim)               for a `dim` that is no multiple of kLanes: load(kind, p) takes of the vector at p what
//                             whole loads leave over, with zeros in the other lanes
//     zero(), subtract(a, b), multiply_add(a, b, sum)
//     store_sums(v, out)      the sum over the lanes of each of four vectors

constexpr int kTileRows = 4;

// The loops over kTileRows and queries are unrolled, so that the sums stay in registers.
template <class Kind, int kRows>
inline void squared_tile(const std::uint8_t* query, std::int64_t dim, const std::uint8_t* const* rows, float* out) {
    Isa::Vector sums[kTileRows];
    const std::uint8_t* row[kRows];
    for (int r = 0; r < kTileRows; ++r) sums[r] = Isa::zero();
    for (int r = 0; r < kRows; ++r) row[r] = rows[r];
    const std::int64_t whole = dim - dim % Isa::kLanes;
    for (std::int64_t d = 0; d < whole; d += Isa::kLanes) {
        const Isa::Vector wanted = Isa::load(F32{}, query + d * F32::kBytes);
        for (int r = 0; r < kRows; ++r) {
            const Isa::Vector difference = Isa::subtract(wanted, Isa::load(Kind{}, row[r] + d * Kind::kBytes));
            sums[r] = Isa::multiply_add(difference, difference, sums[r]);
        }
    }
    if (whole < dim) {
        const Isa::Tail tail(dim);
        const Isa::Vector wanted = tail.load(F32{}, query);
        for (int r = 0; r < kRows; ++r) {
            const Isa::Vector difference = Isa::subtract(wanted, tail.load(Kind{}, row[r]));
            sums[r] = Isa::multiply_add(difference, difference, sums[r]);
        }
    }
    float all[kTileRows];
    Isa::store_sums(sums, all);
    for (int r = 0; r < kRows; ++r) out[r] = all[r];
}

template <class Kind>
void squared(const void* query, std::int64_t dim, const std::uint8_t* const* rows, std::int64_t count, float* out) {
    const auto* const wanted = static_cast<const std::uint8_t*>(query);
    std::int64_t i = 0;
    for (; i + kTileRows <= count; i += kTileRows) squared_tile<Kind, kTileRows>(wanted, dim, rows + i, out + i);
    for (; i < count; ++i) squared_tile<Kind, 1>(wanted, dim, rows + i, out + i);
}

template <class Kind, int kQueries, int kRows>
inline void dots_tile(const float* queries, std::int64_t dim, const std::uint8_t* const* rows, float* out,
                      std::int64_t stride) {
    Isa::Vector sums[kQueries][kTileRows];
    const std::uint8_t* wanted[kQueries];
    const std::uint8_t* row[kRows];
    for (int q = 0; q < kQueries; ++q) {
        wanted[q] = reinterpret_cast<const std::uint8_t*>(queries + q * dim);
        for (int r = 0; r < kTileRows; ++r) sums[q][r] = Isa::zero();
    }
    for (int r = 0; r < kRows; ++r) row[r] = rows[r];
    const auto add = [&](const auto& load_row, const auto& load_query) {
        Isa::Vector query[kQueries];
        for (int q = 0; q < kQueries; ++q) query[q] = load_query(wanted[q]);
        for (int r = 0; r < kRows; ++r) {
            const Isa::Vector value = load_row(row[r]);
            for (int q = 0; q < kQueries; ++q) sums[q][r] = Isa::multiply_add(query[q], value, sums[q][r]);
        }
    };
    const std::int64_t whole = dim - dim % Isa::kLanes;
    for (std::int64_t d = 0; d < whole; d += Isa::kLanes) {
        add([d](const std::uint8_t* p) { return Isa::load(Kind{}, p + d * Kind::kBytes); },
            [d](const std::uint8_t* p) { return Isa::load(F32{}, p + d * F32::kBytes); });
    }
    if (whole < dim) {
        const Isa::Tail tail(dim);
        add([&](const std::uint8_t* p) { return tail.load(Kind{}, p); },
            [&](const std::uint8_t* p) { return tail.load(F32{}, p); });
    }
    for (int q = 0; q < kQueries; ++q) {
        float all[kTileRows];
        Isa::store_sums(sums[q], all);
        for (int r = 0; r < kRows; ++r) out[q * stride + r] = all[r];
    }
}

template <class Kind, int kQueries>
inline void dots_of_queries(const float* queries, std::int64_t dim, const std::uint8_t* const* rows, std::int64_t count,
                            float* out) {
    std::int64_t i = 0;
    for (; i + kTileRows <= count; i += kTileRows) {
        dots_tile<Kind, kQueries, kTileRows>(queries, dim, rows + i, out + i, count);
    }
    for (; i < count; ++i) dots_tile<Kind, kQueries, 1>(queries, dim, rows + i, out + i, count);
}

template <class Kind>
void dots(const float* queries, std::int64_t query_count, std::int64_t dim, const std::uint8_t* const* rows,
          std::int64_t count, float* out) {
    std::int64_t q = 0;
    for (; q + Isa::kTileQueries <= query_count; q += Isa::kTileQueries) {
        dots_of_queries<Kind, Isa::kTileQueries>(queries + q * dim, dim, rows, count, out + q * count);
    }
    for (; q < query_count; ++q) dots_of_queries<Kind, 1>(queries + q * dim, dim, rows, count, out + q * count);
}

const Distances kDistances{{squared<F32>, squared<F16>, squared<I8>}, dots<F32>, dots<F16>};

// From occupancies of positions to the row of the gradient.

// The first position of each label gets the sum over all of them, in their order. Only it writes,
// and nobody else reads it.
__device__ __forceinline__ void gather_equal(const Problem& p, i64 n, int L, real* visits,
                                             int thread, int threads) {
    const int* next = p.next + n * p.S;
    const int* first = p.first + n * p.C;
    for (int i = thread; i < L; i += threads) {
        i64 c = label(p, n, i);
        if (c < 0 || first[c] != i) continue;
        real sum = visits[i];
        for (int j = next[i]; j >= 0; j = next[j]) sum += visits[j];
        visits[i] = sum;
    }
}

// A row without occupancies: of 0, or of NaN where the loss is.
__device__ __forceinline__ void fill_row(const Problem& p, i64 n, i64 t, real value, int thread,
                                         int threads) {
    stored* grad = grad_row(p, n, t);
    for (i64 c = thread; c < p.C; c += threads) grad[c * p.grad_c] = narrow(value);
}

__device__ __forceinline__ void write_row(const Problem& p, i64 n, i64 t, Row row,
                                          const real* visits, real blank, real scale, int thread,
                                          int threads) {
    const stored* x = logits_row(p, n, t);
    stored* grad = grad_row(p, n, t);
    const int* first = p.first + n * p.C;
    const auto entry = [&](i64 c, stored logit, int at) {
        real value = softmax(widen(logit), row);
        if (at >= 0) value -= visits[at] * scale;
        if (c == p.blank) value -= blank;
        grad[c * p.grad_c] = narrow(value);
    };
    i64 c = thread;
    for (; c + (IN_FLIGHT - 1) * threads < p.C; c += IN_FLIGHT * threads) {
        stored logits[IN_FLIGHT];
        int at[IN_FLIGHT];
#pragma unroll
        for (int k = 0; k < IN_FLIGHT; k++) {
            logits[k] = x[(c + k * threads) * p.logits_c];
            at[k] = first[c + k * threads];
        }
#pragma unroll
        for (int k = 0; k < IN_FLIGHT; k++) entry(c + k * threads, logits[k], at[k]);
    }
#pragma unroll 1
    for (; c < p.C; c += threads) entry(c, x[c * p.logits_c], first[c]);
}

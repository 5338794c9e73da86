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

__device__ __forceinline__ void write_row(const Problem& p, i64 n, i64 t, Row row,
                                          const real* visits, real blank, real scale, int thread,
                                          int threads) {
    const stored* x = logits_row(p, n, t);
    stored* grad = grad_row(p, n, t);
    const int* first = p.first + n * p.C;
#pragma unroll 4
    for (i64 c = thread; c < p.C; c += threads) {
        real value = softmax(widen(x[c * p.logits_c]), row);
        int at = first[c];
        if (at >= 0) value -= visits[at] * scale;
        if (c == p.blank) value -= blank;
        grad[c * p.grad_c] = narrow(value);
    }
}

// Third launch: softmax minus occupancy (Graves et al. 2006, equation 16), one warp a frame.

// `visits`: room for the occupancy of each label, unscaled.
__device__ __forceinline__ void gradient_row(const Problem& p, i64 n, i64 t, int lane,
                                             real* visits) {
    const i64 row = n * p.T + t;
    const bool past = t >= num_frames(p, n);
    if (past || !isfinite(p.loss[n])) {
        fill_row(p, n, t, past || p.loss[n] == INFINITY ? real(0) : p.loss[n], lane, WARP);
        return;
    }
    const int L = num_labels(p, n);
    const Pair* alpha = p.paths + row * SLOTS;
    const Pair* beta = p.paths + (p.N * p.T + row) * SLOTS;
    int top = 2 * ZERO;
    for (int i = lane; i <= L; i += WARP) {
        Pair a = alpha[slot(i)];
        Number b = beta[slot(L - i)].blank;
        if (a.blank.m > 0 && b.m > 0) top = larger(top, a.blank.e + b.e);
        if (i == L) continue;
        b = beta[slot(L - 1 - i)].label;
        if (a.label.m > 0 && b.m > 0) top = larger(top, a.label.e + b.e);
    }
    for (int o = WARP / 2; o; o >>= 1) top = larger(top, __shfl_xor_sync(ALL_LANES, top, o));
    real blanks = 0, labels = 0;
    for (int i = lane; i <= L; i += WARP) {
        Pair a = alpha[slot(i)];
        Number b = beta[slot(L - i)].blank;
        // Above the top can only be what has a mantissa of 0.
        int d = a.blank.e + b.e - top;
        blanks += d > 0 ? real(0) : a.blank.m * b.m * power(d);
        if (i == L) continue;
        b = beta[slot(L - 1 - i)].label;
        d = a.label.e + b.e - top;
        visits[i] = d > 0 ? real(0) : a.label.m * b.m * power(d);
        labels += visits[i];
    }
    for (int o = WARP / 2; o; o >>= 1) {
        blanks += __shfl_xor_sync(ALL_LANES, blanks, o);
        labels += __shfl_xor_sync(ALL_LANES, labels, o);
    }
    // By the frame's own sum and not by the likelihood, which has the rounding of all frames.
    const real scale = reciprocal(blanks + labels);
    __syncwarp();
    gather_equal(p, n, L, visits, lane, WARP);
    __syncwarp();
    write_row(p, n, t, p.rows[row], visits, blanks * scale, scale, lane, WARP);
    __syncwarp();
}

// Grid: x over frames, y over sequences. Dynamic shared memory: 4 warps, S numbers each.
extern "C" __global__ void __launch_bounds__(128, 1) ctc_gradient(Problem p) {
    extern __shared__ real room[];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (i64 n = blockIdx.y; n < p.N; n += gridDim.y)
        for (i64 t = (i64)blockIdx.x * 4 + warp; t < p.T; t += (i64)gridDim.x * 4)
            gradient_row(p, n, t, lane, room + warp * p.S);
}

// Any number of labels and frames: states in shared or global memory, alpha and beta kept at
// every `segment`-th frame only, and the frames between them computed again, segment by segment.

// All threads of the block get the result; `box` is shared, 32 wide.
template <class T, class F>
__device__ __forceinline__ T over_block(T value, T* box, F combine) {
    for (int o = WARP / 2; o; o >>= 1)
        value = combine(value, (T)__shfl_xor_sync(ALL_LANES, value, o));
    __syncthreads();
    if (threadIdx.x % WARP == 0) box[threadIdx.x / WARP] = value;
    __syncthreads();
    value = box[0];
    for (int w = 1; w < (int)blockDim.x / WARP; w++) value = combine(value, box[w]);
    return value;
}

// Step one pair of `from` over frame t; `backward` reads the sequence from its end.
struct Walker {
    const Problem& p;
    i64 n;
    int L;
    bool backward;
    __device__ __forceinline__ Pair arrived(const Pair* from, int i) const {
        int skip = NO_WAY;
        if (i > 0 && i < L) {
            int at = backward ? L - 1 - i : i;
            if (label(p, n, at) != label(p, n, backward ? at + 1 : at - 1)) skip = 0;
        }
        return arrive(from[i], i ? from[i - 1].label : NOTHING, skip);
    }
    __device__ __forceinline__ Pair emitted(Pair pair, int i, i64 t, const stored* x, Row row) const {
        i64 c = i < L ? label(p, n, backward ? L - 1 - i : i) : -1;
        Number blank = probability(widen(x[p.blank * p.logits_c]), row, t);
        Number symbol = c < 0 ? NOTHING : probability(widen(x[c * p.logits_c]), row, t);
        return normal(emit(pair, blank, symbol));
    }
};

// Second launch: a block for alpha and one for beta; alpha alone for the loss alone.
extern "C" __global__ void __launch_bounds__(512, 1) ctc_checkpoints(Problem p) {
    extern __shared__ Pair states[];
    const int ways = gridDim.x > p.N ? 2 : 1;
    const i64 n = blockIdx.x / ways, width = p.S + 1, segment = (i64)1 << p.shift;
    const bool backward = blockIdx.x % ways;
    const int L = num_labels(p, n);
    const i64 T = num_frames(p, n);
    Pair* from = p.shared_states ? states : p.work + (i64)blockIdx.x * 2 * width;
    Pair* to = from + width;
    Pair* kept = p.paths + ((backward ? p.N : 0) + n) * p.segments * width;
    const Walker walker{p, n, L, backward};
    bool sound = lengths_in_range(p, n);
    for (int i = threadIdx.x; i <= L; i += blockDim.x) {
        from[i] = start(i);
        sound = sound && (i == L || is_a_label(p, label(p, n, i)));
    }
    sound = __syncthreads_and(sound);
    for (i64 step = 0; step < T; step++) {
        const i64 t = backward ? T - 1 - step : step;
        // The state with which the walk enters a segment.
        const bool enters = step == 0 || ((backward ? t + 1 : t) & (segment - 1)) == 0;
        const bool keep = p.paths && enters;
        const stored* x = logits_row(p, n, t);
        const Row row = p.rows[n * p.T + t];
        for (int i = threadIdx.x; i <= L; i += blockDim.x) {
            if (keep) kept[(t >> p.shift) * width + i] = from[i];
            to[i] = walker.emitted(walker.arrived(from, i), i, t, x, row);
        }
        __syncthreads();
        Pair* swap = from;
        from = to;
        to = swap;
    }
    if (backward || threadIdx.x > 0) return;
    const Number likelihood = L > 0 ? plus(from[L].blank, from[L - 1].label) : from[0].blank;
    p.loss[n] = sound ? negative_log(likelihood, T) : real(NAN);
}

// Third launch: blocks take segments in turn. Each block's `work` is `segment` rows of alpha, two
// rows of states and one of arrivals.
extern "C" __global__ void __launch_bounds__(256, 1) ctc_segments(Problem p) {
    __shared__ int int_box[WARP];
    __shared__ real real_box[WARP];
    const i64 width = p.S + 1, segment = (i64)1 << p.shift;
    const int thread = threadIdx.x, threads = blockDim.x;
    Pair* alpha = p.work + (i64)blockIdx.x * (segment + 3) * width;
    Pair* arrivals = alpha + (segment + 2) * width;
    real* visits = p.sums + (i64)blockIdx.x * p.S;
    i64 n = 0, part = blockIdx.x;
    for (;; part += gridDim.x) {
        for (; part >= p.segments && n < p.N; n++) part -= p.segments;
        if (n >= p.N) return;
        const i64 task = n * p.segments + part, begin = part << p.shift;
        const i64 full = begin + segment < p.T ? begin + segment : p.T;
        const int L = num_labels(p, n);
        const i64 T = num_frames(p, n), end = T < begin ? begin : T < full ? T : full;
        for (i64 t = end; t < full; t++) fill_row(p, n, t, real(0), thread, threads);
        if (!isfinite(p.loss[n])) {
            const real value = p.loss[n] == INFINITY ? real(0) : p.loss[n];
            for (i64 t = begin; t < end; t++) fill_row(p, n, t, value, thread, threads);
            continue;
        }
        if (end == begin) continue;

        const Walker forward{p, n, L, false}, backward{p, n, L, true};
        const Pair* from = p.paths + task * width;
        for (i64 t = begin; t < end; t++) {
            Pair* to = alpha + (t - begin) * width;
            const stored* x = logits_row(p, n, t);
            const Row row = p.rows[n * p.T + t];
            for (int i = thread; i <= L; i += threads)
                to[i] = forward.emitted(forward.arrived(from, i), i, t, x, row);
            __syncthreads();
            from = to;
        }
        from = p.paths + (p.N * p.segments + task) * width;
        Pair* to = alpha + segment * width;
        Pair* spare = to + width;
        for (i64 t = end - 1; t >= begin; t--) {
            const stored* x = logits_row(p, n, t);
            const Row row = p.rows[n * p.T + t];
            for (int i = thread; i <= L; i += threads) {
                arrivals[i] = backward.arrived(from, i);
                to[i] = backward.emitted(arrivals[i], i, t, x, row);
            }
            __syncthreads();
            Pair* both = alpha + (t - begin) * width;  // alpha, then alpha times beta, in place
            int top = 2 * ZERO;
            for (int i = thread; i <= L; i += threads) {
                Number b = arrivals[L - i].blank, l = i < L ? arrivals[L - 1 - i].label : NOTHING;
                Pair a = both[i];
                a.blank = Number{a.blank.m * b.m, a.blank.e + b.e};
                a.label = Number{a.label.m * l.m, a.label.e + l.e};
                both[i] = a;
                if (a.blank.m > 0) top = larger(top, a.blank.e);
                if (a.label.m > 0) top = larger(top, a.label.e);
            }
            top = over_block(top, int_box, [](int a, int b) { return larger(a, b); });
            real blanks = 0, labels = 0;
            for (int i = thread; i <= L; i += threads) {
                Pair a = both[i];
                if (a.blank.m > 0) blanks += a.blank.m * power(a.blank.e - top);
                if (i == L) continue;
                visits[i] = a.label.m > 0 ? a.label.m * power(a.label.e - top) : real(0);
                labels += visits[i];
            }
            const auto add = [](real a, real b) { return a + b; };
            blanks = over_block(blanks, real_box, add);
            labels = over_block(labels, real_box, add);
            const real scale = reciprocal(blanks + labels);
            gather_equal(p, n, L, visits, thread, threads);
            __syncthreads();
            write_row(p, n, t, row, visits, blanks * scale, scale, thread, threads);
            __syncthreads();
            from = to;
            to = spare;
            spare = (Pair*)from;
        }
    }
}

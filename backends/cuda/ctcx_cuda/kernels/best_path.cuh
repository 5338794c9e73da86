// The most probable path of a sequence's labels (Viterbi's recursion), exact at any length.
//
// With b_i the largest sum of logits of a path that is in the blank before label i, l_i in label i:
//
//     b_i <- max(b_i, l_(i-1)) + x_blank
//     l_i <- max(l_i, b_i, [label i differs from label i-1] l_(i-1)) + x_(label i)
//
// Of equal terms the first one is chosen. The denominator of a frame's softmax is the same for all
// states, so that the path needs none. Sums are doubles, for float32 logits too, of logits relative
// to the largest of their frame. ctcx's core and ctcx-cpu add up the same numbers in the same order.
//
// A position is a label and the blank before it. Three bits for each say where the path to it came
// from; 32 positions, a warp's, have one uint4. Where all of them are too many, the way there keeps
// the sums before every `span` frames, and the way back goes through a span again, for the positions
// only from which the path can have come: at most one a frame.

#define NEVER (-(double)INFINITY)

// Frames whose logits are on their way while one is computed.
constexpr int AHEAD = 4;

// First launch: what all columns of a frame have in common. Grid: x over frames, y over sequences.
extern "C" __global__ void __launch_bounds__(128, 1) ctc_spreads(Problem p) {
    const int lane = threadIdx.x % WARP;
    for (i64 n = blockIdx.y; n < p.N; n += gridDim.y) {
        const i64 T = num_frames(p, n);
        i64 t = (i64)blockIdx.x * 4 + threadIdx.x / WARP;
        for (; t < T; t += (i64)gridDim.x * 4) {
            Peak peak = peak_of_row<false>(p, logits_row(p, n, t), lane);
            if (lane > 0) continue;
            const bool masked = peak.top == -INFINITY;
            p.spreads[n * p.T + t] = masked ? Spread{0, 0} : Spread{peak.top, log_of(peak.sum)};
        }
    }
}

// A column of the logits, or of those beside them, at a frame. `step`: bytes to the next one.
struct Column {
    const char* at;
    i64 step;
    bool is_extra;
    __device__ __forceinline__ real logit() const {
#if LOGITS == 32 || LOGITS == 64
        return *(const real*)at;
#else
        return is_extra ? *(const real*)at : widen(*(const stored*)at);
#endif
    }
};

__device__ __forceinline__ Column column(const Problem& p, i64 n, i64 c, i64 t) {
    if (c < p.C) {
        const stored* x = logits_row(p, n, t) + c * p.logits_c;
        return Column{(const char*)x, p.logits_t * (i64)sizeof(stored), false};
    }
    const real* x = p.extra + n * p.extra_n + t * p.extra_t + (c - p.C) * p.extra_c;
    return Column{(const char*)x, p.extra_t * (i64)sizeof(real), true};
}

// The column of label i, or -1 where it is none.
__device__ __forceinline__ i64 label_column(const Problem& p, i64 n, int i) {
    i64 c = integer(p.labels, n * p.labels_n + i * p.labels_s, p.labels_wide);
    return c >= 0 && c < p.columns ? c : -1;
}

// A label and the blank before it. Behind the last label stands a blank, and what counts as the label
// after it is of no account: nothing comes from there into a state that is looked at. Without labels
// the first blank is the only one.
struct Position {
    i64 blank, label;
    bool skips;  // the path may come from the label before
};

__device__ __forceinline__ Position position(const Problem& p, i64 n, int L, int i) {
    const i64 label = i < L ? label_column(p, n, i) : p.blank;
    const i64 blank = i == 0 ? p.first_blank : i == L ? p.last_blank : p.blank;
    return Position{blank, label, i > 0 && i < L && label != label_column(p, n, i - 1)};
}

// The first position from which a path can come to the last label in so many frames.
__device__ __forceinline__ int first_alive(int L, i64 frames) {
    return (int)clamped(L - 1 - frames, L);
}

// Before the first frame all is in the blank before the first label.
__device__ __forceinline__ Sums start_of(int i) { return Sums{i == 0 ? 0.0 : NEVER, NEVER}; }

// One frame for one position, before the emission; `before` is the label before it.
struct Step {
    Sums arrived;
    bool blank_moved, one_back, two_back;
};

__device__ __forceinline__ Step step(Sums old, double before, bool skips) {
    Step a;
    a.blank_moved = before > old.blank;
    a.one_back = old.blank > old.label;
    const double near = a.one_back ? old.blank : old.label;
    a.two_back = skips && before > near;
    a.arrived = Sums{a.blank_moved ? before : old.blank, a.two_back ? before : near};
    return a;
}

// `frames` frames from one on, for a position a thread. `labels`: shared, two rows, each of one number
// more than there are threads; the first stands for the label before the first one.
template <bool CHOOSES>
__device__ __forceinline__ void walk(Column blank, Column label, bool skips, const Spread* spreads,
                                     Sums& sums, double* labels, int frames, uint4* choices,
                                     int units) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    double* mine = labels + threadIdx.x;
    const int width = blockDim.x + 1;
    real blanks[AHEAD], emitted[AHEAD], tops[AHEAD];
    const auto fetch = [&](int u, int t) {
        if (t >= frames) return;
        blanks[u] = blank.logit();
        emitted[u] = label.logit();
        tops[u] = spreads->top;
        blank.at += blank.step;
        label.at += label.step;
        spreads++;
    };
    choices += warp;
#pragma unroll
    for (int u = 0; u < AHEAD; u++) fetch(u, u);
    for (int begin = 0; begin < frames; begin += AHEAD) {
#pragma unroll
        for (int u = 0; u < AHEAD; u++) {
            if (begin + u >= frames) break;
            const double top = tops[u], x_blank = blanks[u] - top, x_label = emitted[u] - top;
            fetch(u, begin + u + AHEAD);
            // In two rows in turn: one barrier is enough.
            static_assert(AHEAD % 2 == 0, "a row for even frames and one for odd ones");
            double* row = mine + u % 2 * width;
            row[1] = sums.label;
            __syncthreads();
            const Step a = step(sums, row[0], skips);
            if (CHOOSES) {
                const uint4 moves{__ballot_sync(ALL_LANES, a.blank_moved),
                                  __ballot_sync(ALL_LANES, a.one_back),
                                  __ballot_sync(ALL_LANES, a.two_back), 0};
                if (lane == 0 && warp < units) *choices = moves;
                choices += units;
            }
            sums = Sums{a.arrived.blank + x_blank, a.arrived.label + x_label};
        }
    }
    __syncthreads();  // the rows may be written to again
}

// All frames, for more positions than threads: sums in global memory. Only positions are looked at
// that a path can have come to, and from which it can come to the end. Keeps sums as `kept` says, and
// returns those of the last position's blank, and of the last label.
__device__ __forceinline__ Sums walk_in_strips(const Problem& p, i64 n, int L, i64 T,
                                               const Spread* spreads, Sums* kept) {
    double* blanks = p.strips + n * 3 * p.width;
    double* labels = blanks + p.width;
    for (int i = threadIdx.x; i <= L; i += blockDim.x) {
        const Sums sums = start_of(i);
        blanks[i] = sums.blank;
        labels[i] = labels[p.width + i] = sums.label;
    }
    __syncthreads();
    for (i64 t = 0; t < T; t++) {
        const double* from = labels + (t % 2 ? p.width : 0);
        double* to = labels + (t % 2 ? 0 : p.width);
        const double top = spreads[t].top;
        const int begin = first_alive(L, T - t), end = t < L ? (int)t : L;
        for (int i = begin + threadIdx.x; i <= end; i += blockDim.x) {
            const Sums old{blanks[i], from[i]};
            if (t % p.span == 0) kept[t / p.span * p.width + i] = old;
            const Position at = position(p, n, L, i);
            const Step a = step(old, i ? from[i - 1] : NEVER, at.skips);
            blanks[i] = a.arrived.blank + (column(p, n, at.blank, t).logit() - top);
            to[i] = a.arrived.label + (column(p, n, at.label, t).logit() - top);
        }
        __syncthreads();
    }
    return Sums{blanks[L], labels[(T % 2 ? p.width : 0) + (L ? L - 1 : 0)]};
}

// Follows the choices back from a state after frame `last` - 1, and writes those of the frames from
// `first` on; returns the state before it. One warp, 32 frames at a time: each lane has the choices
// of a frame, of the 64 positions among which the path stays meanwhile.
__device__ __forceinline__ int trace(int state, i64 first, i64 last, int from,
                                     const uint4* choices, i64 units, int* states) {
    const int lane = threadIdx.x % WARP;
#pragma unroll 1
    for (i64 end = last; end > first; end -= WARP) {
        const i64 t = end - 1 - lane;
        const int unit = (state / 2 - from) / WARP;
        uint4 near{0, 0, 0, 0}, below{0, 0, 0, 0};
        if (t >= first) {
            near = choices[(t - first) * units + unit];
            if (unit > 0) below = choices[(t - first) * units + unit - 1];
        }
        const int frames = end - first < WARP ? (int)(end - first) : WARP;
        int mine = -1;
#pragma unroll 1
        for (int k = 0; k < frames; k++) {
            if (lane == k) mine = state;
            const int at = state / 2 - from;
            const uint4 all = at / WARP == unit ? near : below;
            const auto is_set = [&](unsigned bits) { return (int)(bits >> at % WARP & 1); };
            const int back = state % 2 == 0 ? is_set(all.x) : is_set(all.z) ? 2 : is_set(all.y);
            state -= __shfl_sync(ALL_LANES, back, k);
        }
        if (t >= first) states[t] = mine;
    }
    return state;
}

// Second launch: a block a sequence, there and back. Dynamic shared memory: the two rows of `walk`.
extern "C" __global__ void __launch_bounds__(512, 1) ctc_best_path(Problem p) {
    extern __shared__ double labels[];
    __shared__ Sums last_sums;
    __shared__ int last_state;
    const int thread = threadIdx.x, threads = blockDim.x;
    const i64 n = blockIdx.x, T = num_frames(p, n);
    const int L = num_labels(p, n);
    const Spread* spreads = p.spreads + n * p.T;
    int* states = p.states + n * p.T;
    real* log_probs = p.log_probs + n * p.T;
    const auto fill = [&](i64 t, real value) {
        for (t += thread; t < p.T; t += threads) {
            states[t] = -1;
            log_probs[t] = value;
        }
    };

    bool sound = lengths_in_range(p, n);
    for (int i = thread; i < L; i += threads)
        sound = sound && is_a_label(p, label_column(p, n, i));
    for (i64 t = thread; t < T; t += threads) sound = sound && spreads[t].top < INFINITY;
    sound = __syncthreads_and(sound);
    if (!sound || L > T) return fill(0, sound ? real(0) : real(NAN));

    const i64 spans = T > p.span ? (T + p.span - 1) / p.span : 1;
    Sums* kept = p.kept + n * p.spans * p.width;
    uint4* choices = p.choices + n * p.span * p.units;
    const auto finish = [&](int i, Sums sums) {
        if (i == L) last_sums.blank = sums.blank;
        if (i == L - 1) last_sums.label = sums.label;
        if (L == 0 && i == 0) last_sums.label = NEVER;
    };
    if (thread == 0) labels[0] = labels[threads + 1] = NEVER;
    if (spans > 1) {
        if (L < threads) {
            const Position at = position(p, n, L, thread);
            Sums sums = start_of(thread);
            for (i64 s = 0; s < spans; s++) {
                const i64 first = s * p.span, last = first + p.span < T ? first + p.span : T;
                if (thread <= L) kept[s * p.width + thread] = sums;
                walk<false>(column(p, n, at.blank, first), column(p, n, at.label, first), at.skips,
                            spreads + first, sums, labels, (int)(last - first), nullptr, 0);
            }
            finish(thread, sums);
        } else {
            const Sums sums = walk_in_strips(p, n, L, T, spreads, kept);
            if (thread == 0) last_sums = sums;
        }
    }
    int state = 2 * L;
    for (i64 s = spans - 1; s >= 0; s--) {
        const i64 first = s * p.span, last = first + p.span < T ? first + p.span : T;
        const bool is_end = s == spans - 1;
        if (spans > 1 && is_end) {
            __syncthreads();
            state = L == 0 || last_sums.blank > last_sums.label ? 2 * L : 2 * L - 1;
        }
        // A path comes to as many positions as there are frames, and has been to no more before.
        int from = 0;
        if (spans > 1) from = (int)clamped(state / 2 - (last - first), L) / WARP * WARP;
        const int i = from + thread;
        Sums sums = start_of(i);
        if (spans > 1) {
            const bool is_kept = i <= L && i <= first && i >= first_alive(L, T - first);
            sums = is_kept ? kept[s * p.width + i] : Sums{NEVER, NEVER};
        }
        const Position at = position(p, n, L, i);
        walk<true>(column(p, n, at.blank, first), column(p, n, at.label, first), at.skips,
                   spreads + first, sums, labels, (int)(last - first), choices, (int)p.units);
        if (spans == 1) finish(i, sums);
        __syncthreads();
        if (is_end) {
            if (spans == 1) state = L == 0 || last_sums.blank > last_sums.label ? 2 * L : 2 * L - 1;
            if (!(fmax(last_sums.blank, last_sums.label) > NEVER)) return fill(0, real(0));
        }
        if (thread < WARP) {
            state = trace(state, first, last, from, choices, p.units, states);
            if (thread == 0) last_state = state;
        }
        __syncthreads();
        state = last_state;
    }
    for (i64 t = thread; t < T; t += threads) {
        const int found = states[t];
        const i64 blank = found == 0 ? p.first_blank : found == 2 * L ? p.last_blank : p.blank;
        const i64 c = found % 2 ? label_column(p, n, found / 2) : blank;
        const double x = column(p, n, c, t).logit();
        log_probs[t] = (real)(x - (double)spreads[t].top - (double)spreads[t].log_sum);
    }
    fill(T, real(0));
}

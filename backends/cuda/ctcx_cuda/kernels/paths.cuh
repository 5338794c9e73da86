// Second launch: alpha and beta at the same time, each by a block of its own, states in registers.
//
// Beta is the same recursion over the sequence read backwards: pair i stands for label L - 1 - i.
// A warp's lanes hold PAIRS pairs each; only the label to the left crosses lanes, by one shuffle.
// With several warps, each redoes the last LEFT lanes of its left neighbour for GROUP frames, and
// then takes their true values from shared memory: one barrier every GROUP frames.

#define FORWARD 1
#define BACKWARD -1

struct Lane {
    Pair state[PAIRS];
    int skip[PAIRS];
    bool kept[PAIRS];
    const Number* label[PAIRS];  // its probability in the frame at hand
    const Number* blank;
    Pair* out;
};

template <int WAY>
__device__ __forceinline__ void frame(Lane& a, const Number* label, Number blank, Pair* out,
                                      int lane, bool normalise) {
    Number left;
    left.m = __shfl_up_sync(ALL_LANES, a.state[PAIRS - 1].label.m, 1);
    left.e = __shfl_up_sync(ALL_LANES, a.state[PAIRS - 1].label.e, 1);
    if (lane == 0) left = NOTHING;
#pragma unroll
    for (int k = PAIRS - 1; k >= 0; k--) {
        Pair arrived = arrive(a.state[k], k ? a.state[k ? k - 1 : 0].label : left, a.skip[k]);
        Pair now = emit(arrived, blank, label[k]);
        if (normalise) now = normal(now);
        // Beta is kept without the frame's emission, which alpha has: no division by it later.
        if (a.kept[k]) out[k * OWNERS] = WAY == FORWARD ? now : arrived;
        a.state[k] = now;
    }
}

// Edges of the warps, in two buffers in turn: one barrier is enough.
typedef Pair Edge[PAIRS][LEFT > 0 ? LEFT : 1];
typedef Edge Edges[2][WARPS];

__device__ __forceinline__ void exchange(Lane& a, Edge* edges, int lane, int warp) {
#if WARPS > 1
    if (lane >= WARP - LEFT)
#pragma unroll
        for (int k = 0; k < PAIRS; k++) edges[warp][k][lane - (WARP - LEFT)] = a.state[k];
    __syncthreads();
    if (warp > 0 && lane < LEFT)
#pragma unroll
        for (int k = 0; k < PAIRS; k++) a.state[k] = edges[warp - 1][k][lane];
#endif
}

template <int WAY>
__device__ __forceinline__ void walk(const Problem& p, i64 n, Edges& edges, Number* last) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int owner = warp * (WARP - LEFT) + lane - LEFT;
    const bool own = lane >= LEFT;
    const int L = num_labels(p, n);
    const i64 T = num_frames(p, n);
    const i64 row = n * p.T + (WAY == FORWARD ? 0 : T - 1);
    const Number* emitted = p.emitted + (row + GROUP) * WIDTH;
    bool sound = lengths_in_range(p, n);
    Lane a;
    a.blank = emitted + SLOTS;
    a.out = p.paths + ((WAY == FORWARD ? 0 : p.N * p.T) + row) * SLOTS + (own ? owner : 0);
#pragma unroll
    for (int k = 0; k < PAIRS; k++) {
        int i = owner * PAIRS + k;
        bool labelled = i >= 0 && i < L;
        int at = WAY == FORWARD ? i : L - 1 - i;
        a.state[k] = start(i);
        a.kept[k] = p.paths && own && i <= L;
        a.label[k] = emitted + slot(labelled ? at : L);  // slot L: probability 0
        sound = sound && (!labelled || is_a_label(p, label(p, n, at)));
        a.skip[k] = labelled && i > 0 && label(p, n, at) != label(p, n, at - WAY) ? 0 : NO_WAY;
    }
    Number labels[GROUP][PAIRS], blanks[GROUP];
#pragma unroll
    for (int u = 0; u < GROUP; u++) {
        blanks[u] = a.blank[WAY * u * WIDTH];
#pragma unroll
        for (int k = 0; k < PAIRS; k++) labels[u][k] = a.label[k][WAY * u * WIDTH];
    }
    int turn = 0;
    i64 t = 0;
    for (; t + GROUP <= T; t += GROUP, turn ^= 1) {
        Number next_labels[GROUP][PAIRS], next_blanks[GROUP];
        a.blank += WAY * GROUP * WIDTH;
#pragma unroll
        for (int k = 0; k < PAIRS; k++) a.label[k] += WAY * GROUP * WIDTH;
#pragma unroll
        for (int u = 0; u < GROUP; u++) {
            next_blanks[u] = a.blank[WAY * u * WIDTH];
#pragma unroll
            for (int k = 0; k < PAIRS; k++) next_labels[u][k] = a.label[k][WAY * u * WIDTH];
        }
#pragma unroll
        for (int u = 0; u < GROUP; u++)
            frame<WAY>(a, labels[u], blanks[u], a.out + WAY * u * SLOTS, lane, u == GROUP - 1);
        exchange(a, edges[turn], lane, warp);
        a.out += WAY * GROUP * SLOTS;
#pragma unroll
        for (int u = 0; u < GROUP; u++) {
            blanks[u] = next_blanks[u];
#pragma unroll
            for (int k = 0; k < PAIRS; k++) labels[u][k] = next_labels[u][k];
        }
    }
#pragma unroll 1
    for (; t < T; t++) {  // fewer than GROUP frames are left
        Number few[PAIRS];
#pragma unroll
        for (int k = 0; k < PAIRS; k++) {
            few[k] = *a.label[k];
            a.label[k] += WAY * WIDTH;
        }
        frame<WAY>(a, few, *a.blank, a.out, lane, false);
        a.blank += WAY * WIDTH;
        a.out += WAY * SLOTS;
    }
    if constexpr (WAY == FORWARD) {
#pragma unroll
        for (int k = 0; k < PAIRS; k++) {
            int i = owner * PAIRS + k;
            if (own && i == L) last[0] = a.state[k].blank;
            if (own && i == L - 1) last[1] = a.state[k].label;
        }
        sound = __syncthreads_and(sound);
        if (threadIdx.x > 0) return;
        p.loss[n] = sound ? negative_log(L > 0 ? plus(last[0], last[1]) : last[0], T) : real(NAN);
    }
}

// Two blocks a sequence; one, and nothing is kept, for the loss alone.
extern "C" __global__ void __launch_bounds__(WARP * WARPS, 1) ctc_paths(Problem p) {
    __shared__ Edges edges;
    __shared__ Number last[2];
    const int ways = gridDim.x > p.N ? 2 : 1;
    const i64 n = blockIdx.x / ways;
    if (blockIdx.x % ways) walk<BACKWARD>(p, n, edges, last);
    else walk<FORWARD>(p, n, edges, last);
}

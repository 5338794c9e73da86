// First launch: the softmax's two numbers a frame, the labels' probabilities, equal labels.

#if PAIRS
#define LEFT (WARPS > 1 ? (GROUP + PAIRS - 1) / PAIRS : 0)  // lanes that redo the warp to the left
#define OWNERS (WARPS * (WARP - LEFT))                       // lanes with pairs of their own
#define SLOTS (PAIRS * OWNERS)                               // room for so many pairs
#define WIDTH (SLOTS + 2)                                    // of a row of probabilities
// Where pair i stands in a row: neighbouring lanes read neighbouring slots.
__device__ __forceinline__ int slot(int i) { return (i % PAIRS) * OWNERS + i / PAIRS; }
#endif

// Group equal labels once a sequence, so that sums over them need no atomics and have one order.
// One warp goes from the last labels to the first, 32 at a time; `first` is what it has seen so far.
__device__ __forceinline__ void group_labels(const Problem& p, i64 n) {
    const int L = num_labels(p, n), lane = threadIdx.x % WARP;
    int* first = p.first + n * p.C;
    int* next = p.next + n * p.S;
    for (i64 c = threadIdx.x; c < p.C; c += blockDim.x) first[c] = -1;
    __syncthreads();
    if (threadIdx.x >= WARP) return;
#pragma unroll 1
    for (int begin = (L - 1) / WARP * WARP; begin >= 0; begin -= WARP) {
        const int i = begin + lane;
        const i64 c = i < L ? label(p, n, i) : -1;
        const unsigned equal = __match_any_sync(ALL_LANES, c);
        const unsigned after = equal & ~(ALL_LANES >> (WARP - 1 - lane));
        if (c >= 0) next[i] = after ? begin + __ffs(after) - 1 : first[c];
        __syncwarp();
        if (c >= 0 && lane == __ffs(equal) - 1) first[c] = i;
        __syncwarp();
    }
}

// Grid: x over frames, after one block for the labels if `lists`; y over sequences.
extern "C" __global__ void __launch_bounds__(128, 1) ctc_rows(Problem p, int lists) {
    const int lane = threadIdx.x % WARP;
    for (i64 n = blockIdx.y; n < p.N; n += gridDim.y) {
        if (blockIdx.x < lists) {
            group_labels(p, n);
            continue;
        }
        const i64 T = num_frames(p, n);
        i64 t = (i64)(blockIdx.x - lists) * 4 + threadIdx.x / WARP;
        for (; t < T; t += (i64)(gridDim.x - lists) * 4) {
            const stored* x = logits_row(p, n, t);
            Row row = softmax_row(p, x, lane);
            if (lane == 0) p.rows[n * p.T + t] = row;
#if PAIRS
            // GROUP spare rows before and after: ctc_paths prefetches without a guard.
            Number* emitted = p.emitted + (n * p.T + t + GROUP) * WIDTH;
            int L = num_labels(p, n);
            constexpr int FEW = 2;  // loads before a store; more take registers from other warps
#pragma unroll 1
            for (int begin = lane; begin <= SLOTS; begin += FEW * WARP) {
                i64 c[FEW];
                stored logits[FEW];
#pragma unroll
                for (int k = 0; k < FEW; k++) {
                    int i = begin + k * WARP;
                    c[k] = i == SLOTS ? p.blank : i < L ? label(p, n, i) : -1;
                }
#pragma unroll
                for (int k = 0; k < FEW; k++) logits[k] = x[(c[k] < 0 ? 0 : c[k]) * p.logits_c];
#pragma unroll
                for (int k = 0; k < FEW; k++) {
                    int i = begin + k * WARP;
                    Number p_c = c[k] < 0 ? NOTHING : probability(widen(logits[k]), row, t);
                    if (i <= SLOTS) emitted[i == SLOTS ? SLOTS : slot(i)] = p_c;
                }
            }
#endif
        }
    }
}

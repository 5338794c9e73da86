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
__device__ __forceinline__ void group_labels(const Problem& p, i64 n) {
    int L = num_labels(p, n);
    int* first = p.first + n * p.C;
    int* next = p.next + n * p.S;
    for (i64 c = threadIdx.x; c < p.C; c += blockDim.x) first[c] = -1;
    __syncthreads();
    for (int i = threadIdx.x; i < L; i += blockDim.x) {
        i64 c = label(p, n, i);
        int following = i + 1;
        while (following < L && label(p, n, following) != c) following++;
        next[i] = following < L ? following : -1;
        int before = i - 1;
        while (before >= 0 && label(p, n, before) != c) before--;
        if (before < 0 && c >= 0) first[c] = i;
    }
}

// A sum and its rounding errors: a peak would swallow thousands of small terms.
struct Sum { real high, low; };

__device__ __forceinline__ Sum add(Sum a, Sum b) {  // Knuth's TwoSum
    real high = a.high + b.high, back = high - a.high;
    return Sum{high, a.low + b.low + ((a.high - (high - back)) + (b.high - back))};
}
__device__ __forceinline__ Sum scaled(Sum a, real by) { return Sum{a.high * by, a.low * by}; }

// One pass over the logits with a running maximum (Milakov & Gimelshein 2018, algorithm 3).
__device__ __forceinline__ Row softmax_row(const Problem& p, const stored* x, int lane) {
    real top = -INFINITY;
    Sum sum{0, 0};
#pragma unroll 4
    for (i64 c = lane; c < p.C; c += WARP) {
        real v = widen(x[c * p.logits_c]);
        if (v == -INFINITY) continue;
        real higher = fmax(top, v);
        sum = add(scaled(sum, exp(top - higher)), Sum{exp(v - higher), 0});
        top = higher;
    }
#pragma unroll
    for (int o = WARP / 2; o; o >>= 1) {
        real other = __shfl_xor_sync(ALL_LANES, top, o);
        Sum more{__shfl_xor_sync(ALL_LANES, sum.high, o), __shfl_xor_sync(ALL_LANES, sum.low, o)};
        real higher = fmax(top, other);
        if (higher > -INFINITY)
            sum = add(scaled(sum, exp(top - higher)), scaled(more, exp(other - higher)));
        top = higher;
    }
    // Fused multiply-add isn't symmetric: the lanes' sums may differ in the last bit.
    return Row{top, reciprocal(__shfl_sync(ALL_LANES, sum.high + sum.low, 0))};
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
            for (int i = lane; i <= SLOTS; i += WARP) {
                i64 c = i == SLOTS ? p.blank : i < L ? label(p, n, i) : -1;
                emitted[i == SLOTS ? SLOTS : slot(i)] =
                    c < 0 ? NOTHING : probability(widen(x[c * p.logits_c]), row);
            }
#endif
        }
    }
}

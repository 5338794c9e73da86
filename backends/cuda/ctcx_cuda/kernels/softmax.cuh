// The softmax of a frame, by one warp: the largest logit, its class, and the sum of exponentials.

// A sum and its rounding errors: a peak would swallow thousands of small terms.
struct Sum { real high, low; };

__device__ __forceinline__ Sum add(Sum a, Sum b) {  // Knuth's TwoSum
    real high = a.high + b.high, back = high - a.high;
    return Sum{high, a.low + b.low + ((a.high - (high - back)) + (b.high - back))};
}
__device__ __forceinline__ Sum scaled(Sum a, real by) { return Sum{a.high * by, a.low * by}; }

// `top` is -INFINITY if all classes are masked, +INFINITY if a logit is NaN or +inf. `which` is the
// lowest class with the top, or -1. Of the sum, the lanes may have different last bits.
struct Peak { real top; Sum sum; int which; };

// Classes that a lane takes at a time, with one new maximum for all of them.
template <bool WHICH, int MANY>
__device__ __forceinline__ void take(Peak& peak, const Problem& p, const stored* x, i64 c) {
    real v[MANY], top = peak.top;
#pragma unroll
    for (int k = 0; k < MANY; k++) v[k] = widen(x[(c + k * WARP) * p.logits_c]);
#pragma unroll
    for (int k = 0; k < MANY; k++) {
        if (WHICH && v[k] > top) peak.which = (int)(c + k * WARP);
        top = fmax(top, v[k]);
    }
    const real base = top == -INFINITY ? real(0) : top;
    peak.sum = scaled(peak.sum, exp(peak.top - base));
#pragma unroll
    for (int k = 0; k < MANY; k++) peak.sum = add(peak.sum, Sum{exp(v[k] - base), 0});
    peak.top = top;
}

// One pass over the logits with a running maximum (Milakov & Gimelshein 2018, algorithm 3).
template <bool WHICH>
__device__ __forceinline__ Peak peak_of_row(const Problem& p, const stored* x, int lane) {
    Peak peak{-INFINITY, Sum{0, 0}, -1};  // the sum is NaN as soon as a logit is NaN or +inf
    i64 c = lane;
#pragma unroll 1
    for (; c + (IN_FLIGHT - 1) * WARP < p.C; c += IN_FLIGHT * WARP)
        take<WHICH, IN_FLIGHT>(peak, p, x, c);
#pragma unroll 1
    for (; c < p.C; c += WARP) take<WHICH, 1>(peak, p, x, c);
    real top = peak.top;
    Sum sum = peak.sum;
    int which = peak.which;
    if (sum.high != sum.high) top = INFINITY;
#pragma unroll
    for (int o = WARP / 2; o; o >>= 1) {
        real other = __shfl_xor_sync(ALL_LANES, top, o);
        Sum more{__shfl_xor_sync(ALL_LANES, sum.high, o), __shfl_xor_sync(ALL_LANES, sum.low, o)};
        if (WHICH) {
            int its = __shfl_xor_sync(ALL_LANES, which, o);
            if (other > top || (other == top && its < which)) which = its;
        }
        real higher = fmax(top, other);
        if (higher > -INFINITY)
            sum = add(scaled(sum, exp(top - higher)), scaled(more, exp(other - higher)));
        top = higher;
    }
    return Peak{top, sum, which};
}

__device__ __forceinline__ Row softmax_row(const Problem& p, const stored* x, int lane) {
    Peak peak = peak_of_row<false>(p, x, lane);
    // Fused multiply-add isn't symmetric: the lanes' sums may differ in the last bit.
    return Row{peak.top, reciprocal(__shfl_sync(ALL_LANES, peak.sum.high + peak.sum.low, 0))};
}

// The logarithm of the sum: for a nearly certain class, a small number with all its digits.
__device__ __forceinline__ real log_of(Sum sum) { return log1p((sum.high - real(1)) + sum.low); }

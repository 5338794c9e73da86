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

// One pass over the logits with a running maximum (Milakov & Gimelshein 2018, algorithm 3).
template <bool WHICH>
__device__ __forceinline__ Peak peak_of_row(const Problem& p, const stored* x, int lane) {
    real top = -INFINITY;
    Sum sum{0, 0};  // NaN as soon as a logit is NaN or +inf
    int which = -1;
#pragma unroll 4
    for (i64 c = lane; c < p.C; c += WARP) {
        real v = widen(x[c * p.logits_c]);
        if (v == -INFINITY) continue;
        if (WHICH && v > top) which = (int)c;
        real higher = fmax(top, v);
        sum = add(scaled(sum, exp(top - higher)), Sum{exp(v - higher), 0});
        top = higher;
    }
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

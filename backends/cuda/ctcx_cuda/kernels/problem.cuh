// What a launch gets, and how logits and gradients of each dtype are read and written.

// The largest logit of a frame, and the logarithm of the sum of exponentials relative to it. Both are
// 0 where all classes are masked; a frame with a NaN or +inf has +inf.
struct __align__(2 * sizeof(real)) Spread { real top, log_sum; };

// Best sums of logits of the paths to a label, and to the blank before it.
struct __align__(16) Sums { double blank, label; };

// One struct by value. Strides count elements. The host's copy is in launch.py, field by field.
struct Problem {
    const void* logits; i64 logits_n, logits_t, logits_c;
    void* grad;         i64 grad_n, grad_t, grad_c;
    const void* labels; i64 labels_n, labels_s, labels_wide;  // wide: int64, else int32
    const void* frames; i64 frames_n, frames_wide;            // logit lengths
    const void* counts; i64 counts_n, counts_wide;            // label lengths
    real* loss;
    Row* rows;        // (N, T)
    int* next;        // (N, S): the next position with the same label, or -1
    int* first;       // (N, C): the first position with this label, or -1
    Number* emitted;  // (GROUP + N T + GROUP, slots + 2): probabilities of labels, then of the blank
    Pair* paths;      // (2, N, T, slots); any length: checkpoints (2, N, segments, S + 1)
    Pair* work;       // any length: what blocks keep to themselves
    real* sums;       // any length: (blocks, S)
    i64 N, T, C, S, blank, shift, segments, shared_states;
    // Of best paths and best classes alone.
    const real* extra; i64 extra_n, extra_t, extra_c;  // columns beside the classes; may be null
    i64 columns, first_blank, last_blank;              // classes and extra columns; blanks at the ends
    int* states;        // (N, T): of a path; or classes
    real* log_probs;    // (N, T)
    Spread* spreads;    // (N, T)
    Sums* kept;         // (N, spans, width): sums before the first frame of each span
    double* strips;     // (N, 3, width): sums of blanks, and twice those of labels
    uint4* choices;     // (N, span, units): of 32 positions each
    i64 span, spans, width, units;
};

#if LOGITS == 32 || LOGITS == 64
typedef real stored;
__device__ __forceinline__ real widen(stored x) { return x; }
__device__ __forceinline__ stored narrow(real x) { return x; }
#elif LOGITS == 116  // bfloat16: the upper half of a float32
typedef unsigned short stored;
__device__ __forceinline__ real widen(stored x) { return __int_as_float((int)((unsigned)x << 16)); }
__device__ __forceinline__ stored narrow(real x) {
    unsigned bits = (unsigned)__float_as_int(x);
    return x != x ? 0x7fc0 : (stored)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
#else  // float16
typedef unsigned short stored;
__device__ __forceinline__ real widen(stored x) {
    unsigned sign = (unsigned)(x & 0x8000) << 16, magnitude = x & 0x7fff;
    if (magnitude >= 0x7c00) return __int_as_float((int)(sign | 0x7f800000 | (magnitude << 13)));
    // Subnormal ones as the last bits of a number in [1/2, 1), whose last place is 2^-24 as well: as
    // float32 subnormals they would be flushed to 0, since CuPy compiles with -ftz=true.
    real value = magnitude < 0x400 ? __int_as_float((int)(0x3f000000 | magnitude)) - 0.5f
                                   : __int_as_float((int)((magnitude << 13) + 0x38000000));
    return sign ? -value : value;
}
__device__ __forceinline__ stored narrow(real x) {  // to nearest even; |x| <= 1 or NaN
    unsigned bits = (unsigned)__float_as_int(x), magnitude = bits & 0x7fffffff;
    stored sign = (stored)(bits >> 16 & 0x8000);
    if (magnitude > 0x7f800000) return 0x7e00;
    if (magnitude < 0x38800000)  // subnormal: adding 1/2 rounds at 2^-24, float16's smallest step
        return sign | (stored)(__float_as_int(__int_as_float((int)magnitude) + 0.5f) - 0x3f000000);
    return sign | (stored)((magnitude + 0xfff + ((magnitude >> 13) & 1) - 0x38000000) >> 13);
}
#endif

// Loads of a thread before it stores: for all that the compiler knows, stores change what is read.
constexpr int IN_FLIGHT = 4;

__device__ __forceinline__ i64 clamped(i64 value, i64 most) {
    return value < 0 ? 0 : value > most ? most : value;
}
__device__ __forceinline__ i64 integer(const void* array, i64 at, i64 wide) {
    return wide ? ((const i64*)array)[at] : ((const int*)array)[at];
}
__device__ __forceinline__ i64 logit_length(const Problem& p, i64 n) {
    return integer(p.frames, n * p.frames_n, p.frames_wide);
}
__device__ __forceinline__ i64 label_length(const Problem& p, i64 n) {
    return integer(p.counts, n * p.counts_n, p.counts_wide);
}
// Unchecked lengths and labels (validate=False) must not lead outside of an array.
__device__ __forceinline__ i64 num_frames(const Problem& p, i64 n) {
    return clamped(logit_length(p, n), p.T);
}
__device__ __forceinline__ int num_labels(const Problem& p, i64 n) {
    return (int)clamped(label_length(p, n), p.S);
}
// The class of label i, or -1 where it is none.
__device__ __forceinline__ i64 label(const Problem& p, i64 n, int i) {
    i64 c = integer(p.labels, n * p.labels_n + i * p.labels_s, p.labels_wide);
    return c >= 0 && c < p.C ? c : -1;
}
// What CHECKS_VALUES of the plugin API asks for: NaN marks what is out of range.
__device__ __forceinline__ bool is_a_label(const Problem& p, i64 c) { return c >= 0 && c != p.blank; }
__device__ __forceinline__ bool lengths_in_range(const Problem& p, i64 n) {
    return logit_length(p, n) == num_frames(p, n) && label_length(p, n) == num_labels(p, n);
}
__device__ __forceinline__ const stored* logits_row(const Problem& p, i64 n, i64 t) {
    return (const stored*)p.logits + n * p.logits_n + t * p.logits_t;
}
__device__ __forceinline__ stored* grad_row(const Problem& p, i64 n, i64 t) {
    return (stored*)p.grad + n * p.grad_n + t * p.grad_t;
}
// The loss, given the likelihood with all shifts in it.
__device__ __forceinline__ real negative_log(Number likelihood, i64 frames) {
    if (likelihood.m == real(0)) return INFINITY;
    real loss = sum_of_shifts(frames) - (log(likelihood.m) + (real)likelihood.e * LN2);
    if (loss > real(LARGEST_LOSS)) return INFINITY;
    return loss <= real(0) ? real(0) : loss;  // no probability exceeds 1, by rounding; and no -0
}

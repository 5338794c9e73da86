// Numbers of the recursion: a mantissa, and an exponent of its own (value = m * 2^e, m >= 0).
// No underflow over any number of frames, and no exp or log between one frame and the next.
//
// Macros that choose a variant: LOGITS 16 | 116 | 32 | 64 (float16, bfloat16, float32, float64),
// PAIRS (of states a lane; 0: any number of labels), WARPS (a sequence), GROUP (frames).

#define WARP 32
#define ALL_LANES 0xffffffffu
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#ifndef NAN
#define NAN __int_as_float(0x7fffffff)
#endif

typedef long long i64;
typedef unsigned long long u64;

// A loss above this is infinite, in every dtype; the contract of ctcx's backends.
constexpr float LARGEST_LOSS = 1.8e8f;
// Exponent of 0, and the lowest: 2^ZERO is e^-1.86e8, so that exponents which are cut off here are
// those of infinite losses. Any higher, it would win a maximum and erase a state within reach.
constexpr int ZERO = -(1 << 28);

#if LOGITS == 64
typedef double real;
constexpr double LOG2E = 1.4426950408889634, LN2_HIGH = 0x1.62e42fee00000p-1,
                 LN2_LOW = 0x1.a39ef35793c76p-33, LN2 = 0.6931471805599453;
#else
typedef float real;
constexpr float LOG2E = 1.44269504f, LN2_HIGH = 0x1.62e43p-1f, LN2_LOW = -0x1.05c61p-29f,
                LN2 = 0.693147181f;
#endif

struct __align__(2 * sizeof(real)) Number { real m; int e; };

// One label and the blank before it; the last pair has a blank only.
struct __align__(4 * sizeof(real)) Pair { Number blank, label; };

// Maximum of a frame's logits, and 1 / sum of exp(logit - maximum). The maximum of a frame that has
// a NaN or +inf is +inf.
struct __align__(2 * sizeof(real)) Row { real top, inverse; };

#define NOTHING Number{real(0), ZERO}
// Makes NaN of every state that it is multiplied by, also of one with the mantissa 0.
#define NOT_A_NUMBER Number{real(NAN), 0}

__device__ __forceinline__ int larger(int a, int b) { return a > b ? a : b; }

// 2^d for d <= 0; 0 where that is below the smallest normal number.
__device__ __forceinline__ real power(int d) {
#if LOGITS == 64
    d = larger(d, -1023);
    return __longlong_as_double((i64)((u64)(unsigned)(d * (1 << 20) + 0x3ff00000) << 32));
#else
    d = larger(d, -127);
    return __int_as_float(d * (1 << 23) + 0x3f800000);
#endif
}

// Bring the mantissa into [1, 2).
__device__ __forceinline__ Number normal(Number a) {
#if LOGITS == 64
    u64 bits = (u64)__double_as_longlong(a.m), field = bits & 0x7ff0000000000000ull;
    a.e = larger(a.e + (int)(bits >> 52) - 1023, ZERO);
    a.m *= __longlong_as_double((i64)(0x7fe0000000000000ull - field));
#else
    int bits = __float_as_int(a.m), field = bits & 0x7f800000;
    a.e = larger(a.e + (bits >> 23) - 127, ZERO);
    a.m *= __int_as_float(0x7f000000 - field);
#endif
    return a;
}

__device__ __forceinline__ Number times(Number a, Number b) {
    return Number{a.m * b.m, larger(a.e + b.e, ZERO)};
}

// The larger exponent stays, so its mantissa isn't rounded and a sum of anything but 0 isn't 0.
__device__ __forceinline__ Number plus(Number a, Number b) {
    int e = larger(a.e, b.e);
    return Number{fma(a.m, power(a.e - e), b.m * power(b.e - e)), e};
}

// 1 / x for a normal x, by Newton's steps. The operator's own code for other x costs registers.
__device__ __forceinline__ real reciprocal(real x) {
    real r = __fdividef(1.0f, (float)x);
    r = fma(r, fma(-x, r, real(1)), r);
#if LOGITS == 64
    r = fma(r, fma(-x, r, real(1)), r);
#endif
    return r;
}

// What all logits of frame t are raised by in the recursion, within 1/4. Equal frames would be
// rounded alike, and their errors would add up. By the golden ratio; two by two they add up to 0.
// The first frames are too few for that, and without shifts a certain path has a loss of exactly 0.
__device__ __forceinline__ real shift(i64 t) {
    if (t < 128) return real(0);
    real s = (real)((unsigned)(t / 2) * 2654435769u >> 8) * real(0x1p-26);
    return t % 2 ? -s : s;
}
__device__ __forceinline__ real sum_of_shifts(i64 frames) {
    return frames % 2 ? shift(frames - 1) : real(0);
}

// exp(x - row.top + shift(t)) * row.inverse. The difference is taken exactly (Knuth's TwoSum), as its
// rounding error would be a relative error of the probability, in every frame of the product.
__device__ __forceinline__ Number probability(real x, Row row, i64 t) {
    if (row.top == INFINITY) return NOT_A_NUMBER;
    real d = x - row.top, back = d - x;
    real low = (x - (d - back)) + (-row.top - back);
    if (!(d >= real(-LARGEST_LOSS))) return NOTHING;
    real k = rint(d * LOG2E);
    real rest = fma(-k, LN2_HIGH, d);
    rest = fma(-k, LN2_LOW, rest) + low + shift(t);
    return normal(Number{exp(rest) * row.inverse, (int)k});
}

__device__ __forceinline__ real softmax(real x, Row row) {
    return row.top == -INFINITY ? real(0) : exp(x - row.top) * row.inverse;
}

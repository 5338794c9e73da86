// One frame of the recursion for one pair (Graves et al. 2006, equations 6, 7, 10 and 11).

constexpr int NO_WAY = 2 * ZERO;

// Before the frame's emission: a blank is entered from itself and the label to its left, a label
// from itself, its blank, and from the label to its left unless that is equal to it.
// `skip` is 0, or NO_WAY: that loses to any exponent.
__device__ __forceinline__ Pair arrive(Pair old, Number left, int skip) {
    Number over = Number{left.m, left.e + skip};
    int e = larger(larger(old.label.e, old.blank.e), over.e);
    real enter = fma(old.blank.m, power(old.blank.e - e), over.m * power(over.e - e));
    return Pair{plus(old.blank, left), Number{fma(old.label.m, power(old.label.e - e), enter), e}};
}

__device__ __forceinline__ Pair emit(Pair arrived, Number blank, Number label) {
    return Pair{times(arrived.blank, blank), times(arrived.label, label)};
}

__device__ __forceinline__ Pair normal(Pair a) { return Pair{normal(a.blank), normal(a.label)}; }

__device__ __forceinline__ Pair start(int i) {
    return Pair{i == 0 ? Number{real(1), 0} : NOTHING, NOTHING};
}

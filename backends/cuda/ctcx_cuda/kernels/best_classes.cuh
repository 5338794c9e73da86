// The most probable class of each frame, the lowest of equal ones, and the logarithm of its
// probability: greedy decoding.

// First launch, a warp a frame, reads the logits once. Grid: x over frames, y over sequences. A frame
// of masked classes has the class -1 and -inf, one with a NaN or +inf has NaN.
extern "C" __global__ void __launch_bounds__(128, 1) ctc_best_classes(Problem p) {
    const int lane = threadIdx.x % WARP;
    for (i64 n = blockIdx.y; n < p.N; n += gridDim.y) {
        const i64 T = num_frames(p, n);
        const bool in_range = logit_length(p, n) == T;
        i64 t = (i64)blockIdx.x * 4 + threadIdx.x / WARP;
        for (; t < p.T; t += (i64)gridDim.x * 4) {
            Peak peak{real(0), Sum{real(1), real(0)}, -1};  // past the end
            if (t < T) peak = peak_of_row<true>(p, logits_row(p, n, t), lane);
            if (lane > 0) continue;
            const bool sound = in_range && peak.top < INFINITY;
            real log_prob = real(0) - log_of(peak.sum);
            if (peak.top == -INFINITY) log_prob = -INFINITY;
            p.states[n * p.T + t] = sound ? peak.which : -1;
            p.log_probs[n * p.T + t] = sound ? log_prob : real(NAN);
        }
    }
}

// Second launch, a block a sequence: one NaN spoils all of it.
extern "C" __global__ void __launch_bounds__(256, 1) ctc_spoil(Problem p) {
    int* classes = p.states + blockIdx.x * p.T;
    real* log_probs = p.log_probs + blockIdx.x * p.T;
    bool sound = true;
    for (i64 t = threadIdx.x; t < p.T; t += blockDim.x) sound = sound && log_probs[t] == log_probs[t];
    if (__syncthreads_and(sound)) return;
    for (i64 t = threadIdx.x; t < p.T; t += blockDim.x) {
        classes[t] = -1;
        log_probs[t] = real(NAN);
    }
}

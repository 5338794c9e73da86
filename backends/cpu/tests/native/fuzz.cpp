// Draws problems and computes them in several ways, for the sanitizers to look on:
//
//     fuzz SECONDS SEED
//
// All arrays are exactly as large as they have to be. Results must be the same to the last bit for
// any number of threads, and right beside a plain recursion in double logarithms. With a fault,
// prints the problem and exits with 1.
#include <algorithm>
#include <cmath>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "ctcx_cpu.h"

namespace {

using Size = std::int64_t;
constexpr double infinity = std::numeric_limits<double>::infinity();

struct Problem {
  int type;
  Size sequences, frames, classes, positions, blank;
  bool time_major, wide_integers, gradient;
  std::vector<double> logits;  // (N, T, C), as the type holds them
  std::vector<Size> labels, lengths, counts;
};

std::mt19937_64 random_bits;

double uniform() { return double(random_bits() >> 11) * 0x1p-53; }
Size between(Size low, Size high) { return low + Size(uniform() * double(high - low + 1)); }
// Up to a limit, small ones as often as large ones, and the neighbours of powers of two.
Size size_up_to(Size limit) {
  Size size = Size(std::exp(uniform() * std::log(double(limit) + 1)));
  if (uniform() < 0.3) {
    size = (Size(1) << between(0, 63 - __builtin_clzll(limit))) + between(-1, 1);
  }
  return std::clamp(size, Size(1), limit);
}
double normal() {
  return std::sqrt(-2 * std::log(uniform() + 1e-300)) * std::cos(6.283185307179586 * uniform());
}

Problem draw() {
  Problem p;
  p.type = int(between(2, 3));
  p.frames = size_up_to(uniform() < 0.1 ? 3000 : 400), p.positions = size_up_to(uniform() < 0.1 ? 500 : 80);
  p.classes = size_up_to(uniform() < 0.1 ? 3000 : 200) + 1;
  p.sequences = size_up_to(12);
  while (p.sequences * p.frames * p.classes > 1 << 20) p.sequences = std::max(p.sequences / 2, Size(1)), p.classes = p.classes / 2 + 2;
  if (uniform() < 0.05) p.frames = 0;
  if (uniform() < 0.05) p.positions = 0;
  p.blank = between(0, p.classes - 1);
  p.time_major = uniform() < 0.3, p.wide_integers = uniform() < 0.5, p.gradient = uniform() < 0.8;
  const double scale = std::exp(uniform() * 5 - 2), offset = uniform() < 0.2 ? normal() * 1e5 : 0;
  const bool masked = uniform() < 0.2, equal = uniform() < 0.2;
  for (Size i = 0; i < p.sequences * p.frames * p.classes; i++) {
    double x = masked && uniform() < 0.1 ? -infinity : normal() * scale + offset;
    p.logits.push_back(p.type == CTCX_CPU_FLOAT32 ? double(float(x)) : x);
  }
  if (uniform() < 0.2) {  // many equal frames
    const Size row = p.classes, different = between(1, 4) * row;
    for (Size n = 0; n < p.sequences; n++)
      for (Size i = different; i < p.frames * row; i++)
        p.logits[n * p.frames * row + i] = p.logits[n * p.frames * row + i - different];
  }
  for (Size n = 0; n < p.sequences; n++) {
    p.lengths.push_back(between(0, p.frames));
    p.counts.push_back(uniform() < 0.3 ? std::min(p.positions, p.lengths[n]) : between(0, p.positions));
    for (Size s = 0; s < p.positions; s++) {
      Size label = equal ? 0 : between(0, p.classes - 2);
      p.labels.push_back(s < p.counts[n] ? label + (label >= p.blank) : between(-9, p.classes + 9));
    }
    for (Size t = p.lengths[n]; t < p.frames; t++)
      if (uniform() < 0.5) p.logits[(n * p.frames + t) * p.classes] = std::nan("");
  }
  return p;
}

struct Result {
  std::vector<double> losses, gradient;
  bool operator==(const Result &other) const {
    auto same = [](const std::vector<double> &a, const std::vector<double> &b) {
      return a.size() == b.size() && (a.empty() || !std::memcmp(a.data(), b.data(), a.size() * 8));
    };
    return same(losses, other.losses) && same(gradient, other.gradient);
  }
};

// Exactly that many elements, so that AddressSanitizer sees one more.
template <class T> std::unique_ptr<T[]> exact(Size count) {
  return std::unique_ptr<T[]>(new T[std::max(count, Size(0))]);
}

template <class T, class I> Result run_as(const Problem &p, int threads) {
  const Size all = p.sequences * p.frames * p.classes;
  auto x = exact<T>(all), g = exact<T>(p.gradient ? all : 0), losses = exact<T>(p.sequences);
  auto labels = exact<I>(p.sequences * p.positions), lengths = exact<I>(p.sequences), counts = exact<I>(p.sequences);
  ctcx_cpu_batch b{};
  b.size = sizeof b, b.major = CTCX_CPU_MAJOR, b.type = p.type;
  b.sequences = p.sequences, b.frames = p.frames, b.classes = p.classes;
  b.label_positions = p.positions, b.blank = p.blank;
  const Size sequence = p.time_major ? p.classes : p.frames * p.classes;
  const Size frame = p.time_major ? p.sequences * p.classes : p.classes;
  for (Size n = 0; n < p.sequences; n++)
    for (Size t = 0; t < p.frames; t++)
      for (Size c = 0; c < p.classes; c++)
        x[n * sequence + t * frame + c] = T(p.logits[(n * p.frames + t) * p.classes + c]);
  std::copy(p.labels.begin(), p.labels.end(), labels.get());
  std::copy(p.lengths.begin(), p.lengths.end(), lengths.get());
  std::copy(p.counts.begin(), p.counts.end(), counts.get());
  b.logits = x.get(), b.logits_sequence_stride = sequence, b.logits_frame_stride = frame;
  b.labels = {labels.get(), sizeof(I), 0, p.positions, 1};
  b.logit_lengths = {lengths.get(), sizeof(I), 0, 1, 0};
  b.label_lengths = {counts.get(), sizeof(I), 0, 1, 0};
  b.losses = losses.get();
  if (p.gradient) b.gradient = g.get(), b.gradient_sequence_stride = sequence, b.gradient_frame_stride = frame;
  b.threads = threads;
  const int status = ctcx_cpu_compute(&b);
  if (status != CTCX_CPU_OK) std::printf("status %d\n", status), std::exit(1);
  Result r;
  r.losses.assign(losses.get(), losses.get() + p.sequences);
  if (p.gradient)
    for (Size n = 0; n < p.sequences; n++)
      for (Size t = 0; t < p.frames; t++)
        for (Size c = 0; c < p.classes; c++) r.gradient.push_back(g[n * sequence + t * frame + c]);
  return r;
}

Result run(const Problem &p, int threads) {
  if (p.type == CTCX_CPU_FLOAT64)
    return p.wide_integers ? run_as<double, std::int64_t>(p, threads) : run_as<double, std::int32_t>(p, threads);
  return p.wide_integers ? run_as<float, std::int64_t>(p, threads) : run_as<float, std::int32_t>(p, threads);
}

double log_sum(double a, double b) {
  const double top = std::max(a, b);
  return top == -infinity ? top : top + std::log(std::exp(a - top) + std::exp(b - top));
}

// The loss of a sequence, in double logarithms (Graves et al. 2006, equations 6 to 8).
double loss_of(const Problem &p, Size n) {
  std::vector<Size> states{p.blank};
  for (Size s = 0; s < p.counts[n]; s++)
    states.push_back(p.labels[n * p.positions + s]), states.push_back(p.blank);
  const Size count = Size(states.size());
  std::vector<double> alpha(count, -infinity);
  double constant = 0;
  for (Size t = 0; t < p.lengths[n]; t++) {
    const double *x = p.logits.data() + (n * p.frames + t) * p.classes;
    const double top = *std::max_element(x, x + p.classes);
    if (top == -infinity) return infinity;
    double sum = 0;
    for (Size c = 0; c < p.classes; c++) sum += std::exp(x[c] - top);
    constant += std::log(sum);
    std::vector<double> old = alpha;
    for (Size s = 0; s < count; s++) {
      double into = t ? old[s] : s < 2 ? 0 : -infinity;
      if (t && s > 0) into = log_sum(into, old[s - 1]);
      if (t && s > 1 && states[s] != p.blank && states[s] != states[s - 2]) into = log_sum(into, old[s - 2]);
      alpha[s] = into + (x[states[s]] - top);
    }
  }
  if (p.lengths[n] == 0) return count == 1 ? 0 : infinity;
  return constant - (count == 1 ? alpha[0] : log_sum(alpha[count - 1], alpha[count - 2]));
}

void fail(const Problem &p, const char *what, Size n = -1) {
  std::printf("%s: type %d, N %ld, T %ld, C %ld, S %ld, blank %ld, time major %d, gradient %d, sequence %ld\n", what,
              p.type, long(p.sequences), long(p.frames), long(p.classes), long(p.positions), long(p.blank),
              p.time_major, p.gradient, long(n));
  std::exit(1);
}

}  // namespace

int main(int count, char **arguments) {
  const double seconds = count > 1 ? std::atof(arguments[1]) : 10;
  random_bits.seed(count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 0);
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  Size done = 0;
  double worst = 0;
  for (; std::chrono::steady_clock::now() < end; done++) {
    const Problem p = draw();
    const Result alone = run(p, 1);
    for (int threads : {2, 3, 8})
      if (!(run(p, threads) == alone)) fail(p, "not the same for several threads");
    // Several calls at the same time share the pool.
    if (done % 16 == 0) {
      std::vector<std::thread> callers;
      std::vector<Result> results(4);
      for (int i = 0; i < 4; i++) callers.emplace_back([&, i] { results[i] = run(p, i + 1); });
      for (std::thread &caller : callers) caller.join();
      for (const Result &result : results)
        if (!(result == alone)) fail(p, "not the same in simultaneous calls");
    }
    for (Size n = 0; n < p.sequences; n++) {
      const double expected = loss_of(p, n), got = alone.losses[n];
      if (std::isinf(expected) && std::isinf(got)) continue;
      const bool is_double = p.type == CTCX_CPU_FLOAT64;
      const double allowed = (is_double ? 1e-10 : 2e-6) * expected + (is_double ? 1e-12 : 1.25e-7) * double(std::max(p.lengths[n], Size(16)));
      if (!(std::fabs(expected - got) <= allowed)) {
        std::printf("expected %.9g, got %.9g\n", expected, got);
        fail(p, "a wrong loss", n);
      }
      worst = std::max(worst, std::fabs(expected - got) / allowed);
      for (Size t = 0; p.gradient && t < p.frames; t++) {
        double sum = 0;
        for (Size c = 0; c < p.classes; c++) sum += alone.gradient[(n * p.frames + t) * p.classes + c];
        if (!(std::fabs(sum) <= (is_double ? 1e-9 : 2e-5))) fail(p, "a row of the gradient that doesn't sum to 0", n);
      }
    }
  }
  std::printf("%s: %ld problems, largest error of a loss %.2g of what is allowed\n", ctcx_cpu_instructions(), long(done), worst);
  return 0;
}

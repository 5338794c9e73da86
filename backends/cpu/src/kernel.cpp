// One sequence, for one instruction set: CTCX_CPU_VARIANT is its name in kernel.h.
#include "kernel.h"

#include <bit>
#include <cmath>
#include <limits>

#include "beam.h"
#include "greedy.h"
#include "half.h"
#include "path.h"

namespace {

using ctcx::Batch;
using ctcx::State;

constexpr double ln_2 = 0.69314718055994530942;

// In nats; infinite if no path emits the labels. `factors` is the logarithm to base 2 of all factors,
// the excess that of the softmax.
double loss_of(Likelihood likelihood, double factors, double excess) {
  if (!(likelihood.v > 0)) return std::numeric_limits<double>::infinity();
  const double loss = std::max(excess - std::log(likelihood.v) + (factors - double(likelihood.e)) * ln_2, 0.0);
  return loss <= ctcx::largest_loss ? loss : std::numeric_limits<double>::infinity();
}

// Whether a frame has a NaN or +inf.
template <class X> bool is_wrong(const X *logits, Size row, Size frames, Size classes) {
  for (Size t = 0; t < frames; t++) {
    if (has_nan_or_inf(logits + t * row, classes)) return true;
    if (t % ctcx::frames_a_pause == ctcx::frames_a_pause - 1) ctcx::pause();
  }
  return false;
}

template <class X, class T = typename ComputedIn<X>::Type>
class TypedSequence final : public ctcx::Sequence {
 public:
  TypedSequence(const Batch &batch, Size n, ctcx::Arena arena)
      : batch_(batch), n_(n), arena_(std::move(arena)),
        halves_{Half<X>(input(0), arena_), Half<X>(input(1), arena_)} {}

  double softmax(int half, Size first, Size last) override {
    last = std::min(last, frames_of(half));
    return first < last ? halves_[half].softmax(first, last - first) : 0;
  }
  double walk(int half, bool softmax_done) override {
    halves_[half].set_up();
    return halves_[half].walk(softmax_done);
  }
  bool meet(double excess) override {
    if (!std::isfinite(excess)) {
      fail();
      return false;
    }
    const double factors = halves_[0].factors() + halves_[1].factors();
    halves_[0].arrive(halves_[1]);
    const double loss = loss_of(halves_[0].likelihood(), factors, excess);
    write_loss(T(loss));
    if (std::isinf(loss)) fill(0, length(), 0);
    const bool goes_back = !std::isinf(loss) && (batch_.gradient || batch_.occupancies);
    if (goes_back) halves_[1].arrive(halves_[0]);
    return goes_back;
  }
  void go_back(int half) override { halves_[half].go_back(); }

  std::size_t scratch_bytes() const { return arena_.used(); }

  // Writes what the state of the sequence says; returns whether there is more to compute. Uses no
  // scratch memory.
  bool begin() {
    fill(length(), batch_.frames, 0);
    switch (batch_.states[n_]) {
      case State::possible:
        return true;
      case State::impossible:
        if (is_wrong(logits(), batch_.logits_row, length(), batch_.classes)) {
          fail();
          return false;
        }
        write_loss(std::numeric_limits<T>::infinity());
        fill(0, length(), 0);
        return false;
      case State::wrong:
        fail();
    }
    return false;
  }
  // The softmax in the gradient, and nothing else.
  void finish_softmax() {
    for (int half : {0, 1}) softmax(half, 0, frames_of(half)), halves_[half].write_softmax();
  }

 private:
  Size length() const { return batch_.lengths[n_]; }
  Size frames_of(int half) const { return half == 0 ? length() / 2 : length() - length() / 2; }
  const X *logits() const {
    return static_cast<const X *>(batch_.logits) + n_ * batch_.logits_sequence;
  }
  X *gradient(Size t) const {
    return static_cast<X *>(batch_.gradient) + n_ * batch_.gradient_sequence + t * batch_.gradient_row;
  }
  T *occupancies(Size t) const {
    return static_cast<T *>(batch_.occupancies) + n_ * batch_.occupancies_sequence + t * batch_.occupancies_row;
  }
  T *states(Size t) const {
    return static_cast<T *>(batch_.state_occupancies) + (n_ * batch_.frames + t) * batch_.state_columns;
  }

  typename Half<X>::Input input(int half) const {
    const bool turned = half == 1;
    const Size first = turned ? std::max(length() - 1, Size(0)) : 0, turn = turned ? -1 : 1;
    return {.logits = logits() + first * batch_.logits_row,
            .logits_row = turn * batch_.logits_row,
            .gradient = batch_.gradient ? gradient(first) : nullptr,
            .gradient_row = turn * batch_.gradient_row,
            .weight = batch_.weights ? static_cast<const T *>(batch_.weights)[n_] : T(1),
            .occupancies = batch_.occupancies ? occupancies(first) : nullptr,
            .occupancies_row = turn * batch_.occupancies_row,
            .states = batch_.state_occupancies ? states(first) : nullptr,
            .states_row = turn * batch_.state_columns,
            .states_width = batch_.state_columns,
            .frames = frames_of(half),
            .classes = batch_.classes,
            .blank = batch_.blank,
            .labels = batch_.labels.data() + batch_.first_label[n_],
            .count = batch_.counts[n_],
            .turned = turned};
  }

  void write_loss(T loss) { static_cast<T *>(batch_.losses)[n_] = loss; }
  void fill(Size first, Size last, T value) {
    for (Size t = first; t < last; t++) {
      if (batch_.gradient) std::fill_n(gradient(t), batch_.classes, narrow<X>(value));
      if (batch_.occupancies) std::fill_n(occupancies(t), batch_.classes, value);
      if (batch_.state_occupancies) std::fill_n(states(t), batch_.state_columns, value);
    }
  }
  // Something is wrong with the values.
  void fail() {
    write_loss(std::numeric_limits<T>::quiet_NaN());
    fill(0, length(), std::numeric_limits<T>::quiet_NaN());
  }

  const Batch &batch_;
  const Size n_;
  ctcx::Arena arena_;
  Half<X> halves_[2];
};

template <class X>
std::unique_ptr<ctcx::Sequence> begin(const Batch &batch, Size n, ctcx::Scratch &scratch) {
  TypedSequence<X> counting(batch, n, ctcx::Arena());
  if (!counting.begin()) return nullptr;
  return std::make_unique<TypedSequence<X>>(batch, n, ctcx::Arena(scratch.get(counting.scratch_bytes())));
}

template <class X> void softmax_only(const Batch &batch, Size n, ctcx::Scratch &scratch) {
  const TypedSequence<X> counting(batch, n, ctcx::Arena());
  TypedSequence<X>(batch, n, ctcx::Arena(scratch.get(counting.scratch_bytes()))).finish_softmax();
}

template <class X> typename BestPath<X>::Input path_input(const Batch &batch, Size n) {
  using T = typename ComputedIn<X>::Type;
  return {.logits = static_cast<const X *>(batch.logits) + n * batch.logits_sequence,
          .logits_row = batch.logits_row,
          .extra = batch.extra ? static_cast<const T *>(batch.extra) + n * batch.extra_sequence : nullptr,
          .extra_row = batch.extra_row,
          .frames = batch.lengths[n],
          .classes = batch.classes,
          .blank = batch.blank,
          .first_blank = batch.first_blank,
          .last_blank = batch.last_blank,
          .labels = batch.labels.data() + batch.first_label[n],
          .count = batch.counts[n]};
}

template <class X> void align(const Batch &batch, Size n, ctcx::Scratch &scratch) {
  using T = typename ComputedIn<X>::Type;
  using Outcome = typename BestPath<X>::Outcome;
  std::int32_t *states = batch.path + n * batch.frames;
  T *log_probs = static_cast<T *>(batch.path_log_probs) + n * batch.frames;
  const auto input = path_input<X>(batch, n);
  Outcome outcome = Outcome::none;
  if (batch.states[n] == State::possible) {
    ctcx::Arena counting;
    BestPath<X>(input, counting);
    ctcx::Arena arena(scratch.get(counting.used()));
    outcome = BestPath<X>(input, arena)(states, log_probs);
  } else if (batch.states[n] == State::wrong) {
    outcome = Outcome::wrong;
  } else {
    if (is_wrong(input.logits, input.logits_row, input.frames, input.classes)) outcome = Outcome::wrong;
  }
  const Size written = outcome == Outcome::found ? input.frames : 0;
  std::fill_n(states + written, batch.frames - written, -1);
  std::fill_n(log_probs + written, batch.frames - written,
              outcome == Outcome::wrong ? std::numeric_limits<T>::quiet_NaN() : T(0));
}

template <class X> void sample_paths(const Batch &batch, Size n, ctcx::Scratch &scratch) {
  const Size length = batch.lengths[n], first = n * batch.paths * batch.frames;
  std::int32_t *states = batch.path + first;
  std::fill_n(states, batch.paths * batch.frames, -1);
  if (batch.states[n] != State::possible || length == 0 || batch.paths == 0) return;
  const typename Half<X>::Input whole{.logits = static_cast<const X *>(batch.logits) + n * batch.logits_sequence,
                                      .logits_row = batch.logits_row,
                                      .frames = length,
                                      .classes = batch.classes,
                                      .blank = batch.blank,
                                      .labels = batch.labels.data() + batch.first_label[n],
                                      .count = batch.counts[n],
                                      .turned = false};
  ctcx::Arena counting;
  Half<X>(whole, counting);
  ctcx::Arena arena(scratch.get(counting.used()));
  Half<X> half(whole, arena);
  half.set_up();
  const double excess = half.walk(false);
  if (!std::isfinite(excess) || std::isinf(loss_of(half.likelihood_at_end(), half.factors(), excess))) return;
  if (batch.uniform_bytes == 4)
    half.draw(static_cast<const float *>(batch.uniforms) + first, batch.paths, batch.frames, states);
  else
    half.draw(static_cast<const double *>(batch.uniforms) + first, batch.paths, batch.frames, states);
}

template <class X> const X *logits_of(const Batch &batch, Size n) {
  return static_cast<const X *>(batch.logits) + n * batch.logits_sequence;
}

template <class X> void greedy(const Batch &batch, Size n, ctcx::Scratch &scratch) {
  using T = typename ComputedIn<X>::Type;
  std::int32_t *classes = batch.decoded + n * batch.frames;
  T *log_probs = static_cast<T *>(batch.decoded_log_probs) + n * batch.frames;
  T *widened = nullptr;
  if (!std::is_same_v<X, T>) widened = reinterpret_cast<T *>(scratch.get(batch.classes * sizeof(T)));
  const bool is_right =
      batch.states[n] != State::wrong && best_classes(logits_of<X>(batch, n), batch.logits_row, batch.lengths[n],
                                                      batch.classes, widened, classes, log_probs);
  const Size written = is_right ? batch.lengths[n] : 0;
  std::fill(classes + written, classes + batch.frames, -1);
  std::fill(log_probs + written, log_probs + batch.frames,
            is_right ? T(0) : std::numeric_limits<T>::quiet_NaN());
}

template <class X>
void beam_search(const Batch &batch, Size n, ctcx::Scratch &scratch) {
  using T = typename ComputedIn<X>::Type;
  std::int32_t *labels = batch.decoded + n * batch.top * batch.frames;
  T *log_probs = static_cast<T *>(batch.decoded_log_probs) + n * batch.top;
  const BeamSearch<X> search{logits_of<X>(batch, n), batch.logits_row, batch.lengths[n], batch.frames,
                             batch.classes, batch.blank, batch.width, batch.top, batch.most_labels};
  if (batch.states[n] != State::wrong && search(scratch, labels, log_probs)) return;
  std::fill_n(labels, batch.top * batch.frames, -1);
  std::fill_n(log_probs, batch.top, std::numeric_limits<T>::quiet_NaN());
}

template <class X>
bool log_probabilities(const Batch &batch, Size n, Size t, ctcx::Scratch &scratch, double *to) {
  using T = typename ComputedIn<X>::Type;
  constexpr double infinity = std::numeric_limits<double>::infinity();
  T *widened = nullptr;
  if (!std::is_same_v<X, T>) widened = reinterpret_cast<T *>(scratch.get(batch.classes * sizeof(T)));
  const X *logits = logits_of<X>(batch, n) + t * batch.logits_row;
  if (t + 1 < batch.lengths[n])  // until then memory fetches the next row
    for (Size c = 0; c < batch.classes; c += 64 / sizeof(X)) __builtin_prefetch(logits + batch.logits_row + c);
  const T *x = computed_row(logits, batch.classes, widened);
  const double largest = largest_of_row(x, batch.classes), offset = largest == -infinity ? 0 : largest;
  double sum = sum_of_powers(x, batch.classes, offset);
  if (!(sum < infinity)) return false;
  sum = sum == 0 ? 0 : std::log(sum);
  const auto relative = [=](Vector<double> v) __attribute__((always_inline)) { return v - splat(offset) - splat(sum); };
  Size c = 0;
  for (; c + lanes_of<T> <= batch.classes; c += lanes_of<T>) {
    if constexpr (std::is_same_v<T, double>) {
      store(to + c, relative(load(x + c)));
    } else {
      const auto [low, high] = in_double(load(x + c));
      store(to + c, relative(low)), store(to + c + lanes_of<double>, relative(high));
    }
  }
  for (; c < batch.classes; c++) to[c] = double(x[c]) - offset - sum;
  return true;
}

double largest(const double *p, Size n, Size but) {
  constexpr Size step = lanes_of<double>;
  constexpr double infinity = std::numeric_limits<double>::infinity();
  Vector<double> most = splat(-infinity);
  double one = -infinity;
  const auto see = [&](Size i, Size end) __attribute__((always_inline)) {
    for (; i + step <= end; i += step) most = greater(most, load(p + i));
    for (; i < end; i++) one = std::max(one, p[i]);
  };
  see(0, but), see(but + 1, n);
  return std::max(one, largest_of(most));
}

Size pick(const double *p, const double *gains, double total, double before, double refund, double least,
          const std::uint64_t *left_out, Size n, std::int64_t first_id, double *scores, std::int64_t *ids) {
  constexpr Size step = lanes_of<double>;
  Size count = 0, i = 0;
  for (; i + step <= n; i += step) {
    const Vector<double> score = (splat(total) + load(p + i)) + (splat(before) + (load(gains + i) + splat(refund)));
    const unsigned bits = greater_bits(score, splat(least)) & ~unsigned(left_out[i / 64] >> i % 64);
    if (!bits) continue;
    compress(score, bits, scores + count);
    count += compress(counting<std::int64_t>() + splat(first_id + i), bits, ids + count);
  }
  for (; i < n; i++) {
    scores[count] = (total + p[i]) + (before + (gains[i] + refund)), ids[count] = first_id + i;
    count += scores[count] > least && !(left_out[i / 64] >> i % 64 & 1);
  }
  return count;
}

Size keep(double *scores, std::int64_t *ids, Size n, double least) {
  constexpr Size step = lanes_of<double>;
  Size count = 0, i = 0;
  for (; i + step <= n; i += step) {
    const Vector<double> score = load(scores + i);
    const Integers<double> id = load(ids + i);
    const unsigned bits = greater_bits(splat(least), score) ^ ((1u << step) - 1);
    compress(score, bits, scores + count);
    count += compress(id, bits, ids + count);
  }
  for (; i < n; i++) {
    const double score = scores[i];
    scores[count] = score, ids[count] = ids[i];
    count += score >= least;
  }
  return count;
}

// log(exp(a) + exp(b)) = a + log1p(exp(b - a)), for b <= a.
CTCX_INLINE Vector<double> log_sum(Vector<double> a, Vector<double> b) {
  constexpr double infinity = std::numeric_limits<double>::infinity(), ln_2 = 0.693147180559945309417;
  const Vector<double> larger = greater(a, b), below = smaller(a, b) - larger;
  const Vector<double> e = below > splat(-700.0) ? Power<double>(0, 0)(below) : Vector<double>{};
  // log(u) = log(m) + k ln(2) = 2 atanh((m - 1) / (m + 1)) + k ln(2), and what u lost of 1 + e.
  const Vector<double> u = e + 1, lost = e - (u - 1);
  const auto is_large = u > splat(1.41421356237309504880);
  const Vector<double> m = is_large ? u * 0.5 : u, s = (m - 1) / (m + 1), square = s * s;
  const Vector<double> fourth = square * square;
  Vector<double> even{}, odd{};  // half of the terms each, so that neither is waited for so long
#pragma GCC unroll 8
  for (int n = 21; n >= 5; n -= 4) even = fma(even, fourth, splat(2.0 / (n - 2))), odd = fma(odd, fourth, splat(2.0 / n));
  const Vector<double> series = fma(odd, square, even);
  const Vector<double> of_m = fma(series * square, s, s + s);
  const Vector<double> added = (is_large ? splat(ln_2) : Vector<double>{}) + (of_m + lost / u);
  return larger == splat(-infinity) ? larger : larger + added;
}

void log_sums(const double *a, const double *b, Size n, double *to) {
  for (Size i = 0; i < n; i += lanes_of<double>) store(to + i, log_sum(load(a + i), load(b + i)));
}

// By turns, the number is where it should be between two others if scores were spread evenly, and in their
// middle.
double reached(const double *scores, Size n, Size many) {
  constexpr Size step = lanes_of<double>;
  Vector<double> least = load(scores), most = least;
  for (Size i = 0; i < n; i += step) {
    const Vector<double> some = load(scores + std::min(i, n - step));  // the last ones overlap
    least = smaller(least, some), most = greater(most, some);
  }
  double low = fold(least, [](auto a, auto b) { return smaller(a, b); }), high = largest_of(most);
  Size at_low = n, at_high = 1;
  for (int turn = 0; turn < 16 && at_low > many + many / 8; turn++) {
    double middle = low / 2 + high / 2;
    if (turn % 2 == 0) middle = low + (high - low) * double(at_low - many - many / 16) / double(at_low - at_high);
    if (!(low < middle && middle < high)) break;
    Integers<double> counts{};
    Size i = 0;
    for (; i + step <= n; i += step) counts -= load(scores + i) >= splat(middle);
    Size count = sum_of(counts);
    for (; i < n; i++) count += scores[i] >= middle;
    (count >= many ? low : high) = middle;
    (count >= many ? at_low : at_high) = count;
  }
  return low;
}

void ranks(double *scores, Size n, std::int32_t *to) {
  constexpr Size step = lanes_of<double>;
  std::fill_n(scores + n, step, -std::numeric_limits<double>::infinity());
  for (Size i = 0; i < n; i += 4) {  // at once, since loading takes as long as comparing
    Integers<double> counts[4] = {};
    for (Size k = 0; k < n; k += step) {
      const Vector<double> some = load(scores + k);
      for (int j = 0; j < 4; j++) counts[j] -= some > splat(scores[i + j]);
    }
    for (int j = 0; j < 4; j++) to[i + j] = std::int32_t(sum_of(counts[j]));
  }
}

template <class X>
constexpr ctcx::Kernel kernel_for{begin<X>,  softmax_only<X>, align<X>,             sample_paths<X>, greedy<X>,
                                  beam_search<X>, log_probabilities<X>, largest, pick, keep, log_sums, reached, ranks};

}  // namespace

#define NAME_OF(variant) #variant
#define QUOTED(variant) NAME_OF(variant)

namespace ctcx {
extern const InstructionSet CTCX_CPU_VARIANT;
const InstructionSet CTCX_CPU_VARIANT{
    QUOTED(CTCX_CPU_VARIANT),
    {kernel_for<Float16>, kernel_for<BFloat16>, kernel_for<float>, kernel_for<double>}};
}  // namespace ctcx

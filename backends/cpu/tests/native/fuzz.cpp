// Draws problems and computes them in several ways, for the sanitizers to look on:
//
//     fuzz SECONDS SEED
//
// All arrays are exactly as large as they have to be. Results must be the same to the last bit for
// any number of threads, and right beside plain recursions in double: losses, occupancies and drawn
// paths in logarithms, best paths to the state, prefixes of beams and of guided searches wherever no
// two are as good as equal. With a fault, prints the problem and exits with 1.
#include <algorithm>
#include <cmath>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "ctcx_cpu.h"

namespace {

using Size = std::int64_t;
// Of a beam, about, for which a plain search has the time.
constexpr Size most_candidates = 1 << 17, most_guided_candidates = 1 << 13;
// The same of states and frames.
constexpr Size most_states = 1 << 16;
constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double ngrams_weight = 0.5;

struct Problem {
  int type;
  Size sequences, frames, classes, positions, blank;
  bool time_major, wide_integers, gradient;
  std::vector<double> logits;  // (N, T, C), as the type holds them
  std::vector<Size> labels, lengths, counts;
  // For alignments: more columns (N, T, W), labels that name some of them, and the outer blanks.
  Size columns, first_blank, last_blank;
  std::vector<double> extra;
  std::vector<Size> aligned_labels;
  Size width, top, max_classes;  // of beams
  Size paths;                    // that are drawn
  // Of guided searches: phrases, a model of the classes' tokens, and where the frames are cut.
  std::vector<std::int32_t> phrase_labels;
  std::vector<std::int64_t> phrase_lengths;
  std::vector<double> phrase_weights;
  bool has_model, has_words;
  double label_bonus;
  Size cut;
  std::vector<double> uniforms;  // (N, K, T)
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
  const bool masked = uniform() < 0.2, equal = uniform() < 0.2, coarse = uniform() < 0.3;
  for (Size i = 0; i < p.sequences * p.frames * p.classes; i++) {
    double x = masked && uniform() < 0.1 ? -infinity : normal() * scale + offset;
    if (coarse) x = std::round(x);  // many paths are equally good
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
  p.columns = uniform() < 0.3 ? between(1, 4) : 0;
  for (Size i = 0; i < p.sequences * p.frames * p.columns; i++)
    p.extra.push_back(uniform() < 0.05 ? -infinity : double(float(offset + normal())));
  p.first_blank = p.last_blank = p.blank;
  if (uniform() < 0.3)
    p.first_blank = between(0, p.classes + p.columns - 1), p.last_blank = between(0, p.classes + p.columns - 1);
  for (Size label : p.labels)
    p.aligned_labels.push_back(p.columns && uniform() < 0.2 ? p.classes + between(0, p.columns - 1) : label);
  const Size all = std::max(p.sequences * p.frames * p.classes, Size(1));
  p.width = size_up_to(std::clamp(most_candidates / all, Size(2), Size(300)));
  p.top = between(1, p.width);
  p.max_classes = uniform() < 0.3 ? size_up_to(p.classes + 1) : 0;
  for (Size k = p.classes > 1 ? between(0, 6) : 0; k > 0; k--) {
    p.phrase_lengths.push_back(between(1, 4)), p.phrase_weights.push_back(double(between(-2, 6)) / 4);
    for (Size i = p.phrase_lengths.back(); i > 0; i--) {
      const Size label = between(0, std::min(p.classes - 2, Size(3)));
      p.phrase_labels.push_back(std::int32_t(label + (label >= p.blank)));
    }
  }
  p.has_model = uniform() < 0.5, p.has_words = uniform() < 0.5;
  p.label_bonus = double(between(-2, 2)) / 4, p.cut = between(0, p.frames);
  p.paths = between(0, 4);
  for (Size i = 0; i < p.sequences * p.paths * p.frames; i++)
    p.uniforms.push_back(uniform() < 0.1 ? 0 : uniform() < 0.1 ? 1 - 0x1p-24 : double(float(uniform() * 0.999999)));
  return p;
}

struct Result {
  std::vector<double> losses, gradient, states, log_probs, classes, class_log_probs, prefixes, prefix_log_probs;
  std::vector<double> occupancy_losses, of_classes, of_states, drawn, guided, guided_labels;
  bool agrees_in_chunks = true;  // the guided search
  bool is_weighted = true;       // the gradient of a call with weights is the product
  bool operator==(const Result &other) const {
    auto same = [](const std::vector<double> &a, const std::vector<double> &b) {
      return a.size() == b.size() && (a.empty() || !std::memcmp(a.data(), b.data(), a.size() * 8));
    };
    return same(losses, other.losses) && same(gradient, other.gradient) &&
           same(states, other.states) && same(log_probs, other.log_probs) && same(classes, other.classes) &&
           same(class_log_probs, other.class_log_probs) && same(prefixes, other.prefixes) &&
           same(prefix_log_probs, other.prefix_log_probs) && same(occupancy_losses, other.occupancy_losses) &&
           same(of_classes, other.of_classes) && same(of_states, other.of_states) && same(drawn, other.drawn) &&
           same(guided, other.guided) && same(guided_labels, other.guided_labels) &&
           agrees_in_chunks == other.agrees_in_chunks && is_weighted == other.is_weighted;
  }
};

// Exactly that many elements, so that AddressSanitizer sees one more.
template <class T> std::unique_ptr<T[]> exact(Size count) {
  return std::unique_ptr<T[]>(new T[std::max(count, Size(0))]);
}

template <class T> std::unique_ptr<T[]> exact_copy(const std::vector<T> &from) {
  auto to = exact<T>(Size(from.size()));
  std::copy(from.begin(), from.end(), to.get());
  return to;
}

// The arrays that a call reads, and the batch that describes them.
template <class T, class I> struct Call {
  std::unique_ptr<T[]> x;
  std::unique_ptr<I[]> labels, lengths, counts;
  Size sequence, frame;  // strides of the logits
  ctcx_cpu_batch batch{};

  Call(const Problem &p, const std::vector<Size> &said, int threads)
      : x(exact<T>(p.sequences * p.frames * p.classes)), labels(exact<I>(p.sequences * p.positions)),
        lengths(exact<I>(p.sequences)), counts(exact<I>(p.sequences)) {
    ctcx_cpu_batch &b = batch;
    b.size = sizeof b, b.major = CTCX_CPU_MAJOR, b.type = p.type;
    b.sequences = p.sequences, b.frames = p.frames, b.classes = p.classes;
    b.label_positions = p.positions, b.blank = p.blank;
    sequence = p.time_major ? p.classes : p.frames * p.classes;
    frame = p.time_major ? p.sequences * p.classes : p.classes;
    for (Size n = 0; n < p.sequences; n++)
      for (Size t = 0; t < p.frames; t++)
        for (Size c = 0; c < p.classes; c++)
          x[n * sequence + t * frame + c] = T(p.logits[(n * p.frames + t) * p.classes + c]);
    std::copy(said.begin(), said.end(), labels.get());
    std::copy(p.lengths.begin(), p.lengths.end(), lengths.get());
    std::copy(p.counts.begin(), p.counts.end(), counts.get());
    b.logits = x.get(), b.logits_sequence_stride = sequence, b.logits_frame_stride = frame;
    b.labels = {labels.get(), sizeof(I), 0, p.positions, 1};
    b.logit_lengths = {lengths.get(), sizeof(I), 0, 1, 0};
    b.label_lengths = {counts.get(), sizeof(I), 0, 1, 0};
    b.threads = threads;
  }
};

void expect_ok(int status) {
  if (status != CTCX_CPU_OK) std::printf("status %d\n", status), std::exit(1);
}

// An n-gram model that knows some pairs of words: "0" to "3", as far as there are so many classes. The
// token of each class is its number.
struct Model {
  static constexpr std::int32_t begin = 0, end = 1, unknown = 2, first = 3;
  Size classes;
  std::int32_t words;
  bool has_words;  // that tokens spell; the last class separates them

  explicit Model(const Problem &p)
      : classes(p.classes), words(first + std::int32_t(std::min(p.classes, Size(4)))), has_words(p.has_words) {}

  static bool is_pair(std::int32_t before, std::int32_t word) {
    return word >= first && (before == begin || before == unknown || before == word);
  }
  static double of_word(std::int32_t word) { return -1 - 0.25 * word; }
  static double of_pair(std::int32_t before, std::int32_t word) { return -0.125 * (word + before); }
  static double back_off(std::int32_t word) { return -0.5 * (word % 3); }

  std::int32_t word_of(const std::string &text) const {
    return text.size() == 1 && text[0] - '0' < words - first ? first + (text[0] - '0') : unknown;
  }
  double log_prob(std::int32_t before, std::int32_t word) const {
    return is_pair(before, word) ? of_pair(before, word) : back_off(before) + of_word(word);
  }
  double log_prob(const std::vector<Size> &labels, bool has_ended) const {
    double sum = 0;
    std::int32_t before = begin;
    std::string spelled;
    const auto say = [&](std::int32_t word) { sum += log_prob(before, word), before = word; };
    for (Size label : labels) {
      if (!has_words || label != classes - 1) spelled += std::to_string(label);
      if (spelled.empty() || (has_words && label != classes - 1)) continue;
      say(word_of(spelled)), spelled.clear();
    }
    if (has_ended && !spelled.empty()) say(word_of(spelled));
    return has_ended ? sum + log_prob(before, end) : sum;
  }

  ctcx_cpu_ngrams *made() const {
    std::vector<char> text, tokens;
    std::vector<std::int64_t> ends, token_ends;
    const auto add = [](auto &to, auto &its, const std::string &one) {
      to.insert(to.end(), one.begin(), one.end()), its.push_back(Size(to.size()));
    };
    for (const char *word : {"<s>", "</s>", "<unk>"}) add(text, ends, word);
    for (std::int32_t w = first; w < words; w++) add(text, ends, std::to_string(w - first));
    for (Size c = 0; c < classes; c++) add(tokens, token_ends, std::to_string(c));
    std::vector<std::int32_t> sizes, grams;
    std::vector<double> log_probs, back_offs;
    for (std::int32_t w = 0; w < words; w++) {
      sizes.push_back(1), grams.push_back(w);
      log_probs.push_back(of_word(w)), back_offs.push_back(back_off(w));
    }
    for (std::int32_t a = 0; a < words; a++)
      for (std::int32_t w = 0; w < words; w++) {
        if (!is_pair(a, w)) continue;
        sizes.push_back(2), grams.insert(grams.end(), {a, w});
        log_probs.push_back(of_pair(a, w)), back_offs.push_back(0);
      }
    const auto text_ = exact_copy(text), tokens_ = exact_copy(tokens);
    const auto ends_ = exact_copy(ends), token_ends_ = exact_copy(token_ends);
    const auto sizes_ = exact_copy(sizes), grams_ = exact_copy(grams);
    const auto log_probs_ = exact_copy(log_probs), back_offs_ = exact_copy(back_offs);
    const ctcx_cpu_strings all_words{text_.get(), ends_.get(), words};
    const ctcx_cpu_strings all_tokens{tokens_.get(), token_ends_.get(), classes};
    return ctcx_cpu_ngrams_new(&all_words, &all_tokens, has_words ? classes - 1 : -1, 2, sizes_.get(), grams_.get(),
                               log_probs_.get(), back_offs_.get(), Size(sizes.size()));
  }
};

// A guided search in chunks that begin and end at such frames.
template <class C>
void guided_search(const Problem &p, const C &call, const ctcx_cpu_phrases *phrases, const ctcx_cpu_ngrams *ngrams,
                   const std::vector<Size> &borders, Result &r) {
  const Size all = p.sequences * p.width;
  std::unique_ptr<std::int32_t[]> labels;
  std::unique_ptr<double[]> numbers;
  Size positions = 0;
  for (std::size_t i = 0; i + 1 < borders.size(); i++) {
    ctcx_cpu_batch b = call.batch;
    const Size first = borders[i];
    b.frames = borders[i + 1] - first;
    std::vector<std::int64_t> lengths;
    for (Size length : p.lengths) lengths.push_back(std::clamp(length - first, Size(0), b.frames));
    b.logit_lengths = {lengths.data(), 8, 0, 1, 0};
    b.logits = call.x.get() + first * call.frame;
    b.width = p.width, b.max_classes = p.max_classes;
    b.phrases = phrases, b.ngrams = ngrams, b.ngrams_weight = ngrams_weight, b.label_bonus = p.label_bonus;
    b.entry_labels = labels.get(), b.entry_positions = positions, b.entry_numbers = numbers.get();
    positions += b.frames;
    auto next_labels = exact<std::int32_t>(all * positions);
    auto next_numbers = exact<double>(4 * all);
    b.decoded = next_labels.get(), b.result_numbers = next_numbers.get();
    expect_ok(ctcx_cpu_guided_search(&b));
    labels = std::move(next_labels), numbers = std::move(next_numbers);
  }
  r.guided.assign(numbers.get(), numbers.get() + 4 * all);
  r.guided_labels.assign(labels.get(), labels.get() + all * positions);
}

// Whether a call with weights gives the gradient `plain` times those, to the last bit, and the same losses.
template <class T, class C> bool is_product(const Problem &p, const C &call, const T *plain) {
  const Size row = p.frames * p.classes;
  auto gradient = exact<T>(p.sequences * row), losses = exact<T>(p.sequences), weights = exact<T>(p.sequences);
  for (Size n = 0; n < p.sequences; n++) weights[n] = T(1) / T(n + 2);
  ctcx_cpu_batch b = call.batch;
  b.losses = losses.get(), b.gradient = gradient.get(), b.gradient_weights = weights.get();
  expect_ok(ctcx_cpu_compute(&b));
  auto are_same = [](T one, T other) { return one == other || (one != one && other != other); };
  const T *plain_losses = static_cast<const T *>(call.batch.losses);
  for (Size n = 0; n < p.sequences; n++) {
    if (!are_same(losses[n], plain_losses[n])) return false;
    for (Size t = 0; t < p.frames; t++)
      for (Size c = 0; c < p.classes; c++) {
        const Size at = n * call.sequence + t * call.frame + c;
        if (!are_same(gradient[at], plain[at] * weights[n])) return false;
      }
  }
  return true;
}

template <class T, class I> Result run_as(const Problem &p, int threads) {
  auto g = exact<T>(p.gradient ? p.sequences * p.frames * p.classes : 0), losses = exact<T>(p.sequences);
  Call<T, I> call(p, p.labels, threads);
  ctcx_cpu_batch &b = call.batch;
  b.losses = losses.get();
  if (p.gradient) b.gradient = g.get(), b.gradient_sequence_stride = call.sequence, b.gradient_frame_stride = call.frame;
  expect_ok(ctcx_cpu_compute(&b));
  Result r;
  r.losses.assign(losses.get(), losses.get() + p.sequences);
  if (p.gradient)
    for (Size n = 0; n < p.sequences; n++)
      for (Size t = 0; t < p.frames; t++)
        for (Size c = 0; c < p.classes; c++) r.gradient.push_back(g[n * call.sequence + t * call.frame + c]);
  if (p.gradient) r.is_weighted = is_product(p, call, g.get());
  const Size all = p.sequences * p.frames, columns = 2 * p.positions + 1;
  auto of_classes = exact<T>(all * p.classes), of_states = exact<T>(all * columns);
  b.gradient = nullptr, b.class_occupancies = of_classes.get();
  b.class_occupancies_sequence_stride = call.sequence, b.class_occupancies_frame_stride = call.frame;
  if (p.gradient) b.state_occupancies = of_states.get();
  expect_ok(ctcx_cpu_occupancies(&b));
  r.occupancy_losses.assign(losses.get(), losses.get() + p.sequences);
  for (Size n = 0; n < p.sequences; n++)
    for (Size t = 0; t < p.frames; t++)
      for (Size c = 0; c < p.classes; c++) r.of_classes.push_back(of_classes[n * call.sequence + t * call.frame + c]);
  if (p.gradient) r.of_states.assign(of_states.get(), of_states.get() + all * columns);
  auto uniforms = exact<T>(all * p.paths);
  auto drawn = exact<std::int32_t>(all * p.paths);
  std::copy(p.uniforms.begin(), p.uniforms.end(), uniforms.get());
  b.uniforms = uniforms.get(), b.uniform_bytes = sizeof(T), b.paths = p.paths, b.states = drawn.get();
  expect_ok(ctcx_cpu_sample_paths(&b));
  r.drawn.assign(drawn.get(), drawn.get() + all * p.paths);
  auto extra = exact<T>(all * p.columns), log_probs = exact<T>(all);
  auto states = exact<std::int32_t>(all);
  std::copy(p.extra.begin(), p.extra.end(), extra.get());
  Call<T, I> align(p, p.aligned_labels, threads);
  ctcx_cpu_batch &a = align.batch;
  a.extra = extra.get(), a.extra_columns = p.columns;
  a.extra_sequence_stride = p.frames * p.columns, a.extra_frame_stride = p.columns;
  a.free_ends = 1, a.first_blank = p.first_blank, a.last_blank = p.last_blank;
  a.states = states.get(), a.log_probs = log_probs.get();
  expect_ok(ctcx_cpu_align(&a));
  r.states.assign(states.get(), states.get() + all), r.log_probs.assign(log_probs.get(), log_probs.get() + all);

  Call<T, I> decode(p, {}, threads);
  ctcx_cpu_batch &d = decode.batch;
  d.labels = d.label_lengths = {};
  auto run_one = [&](int (*function)(const ctcx_cpu_batch *), Size decoded, Size probable, auto &to, auto &to_log_probs) {
    auto labels = exact<std::int32_t>(decoded);
    auto probabilities = exact<T>(probable);
    d.decoded = labels.get(), d.decoded_log_probs = probabilities.get();
    expect_ok(function(&d));
    to.assign(labels.get(), labels.get() + decoded);
    to_log_probs.assign(probabilities.get(), probabilities.get() + probable);
  };
  run_one(ctcx_cpu_greedy, all, all, r.classes, r.class_log_probs);
  d.width = p.width, d.top = p.top, d.max_classes = p.max_classes;
  run_one(ctcx_cpu_beam_search, all * p.top, p.sequences * p.top, r.prefixes, r.prefix_log_probs);
  const auto phrase_labels = exact_copy(p.phrase_labels);
  const auto phrase_lengths = exact_copy(p.phrase_lengths);
  const auto phrase_weights = exact_copy(p.phrase_weights);
  ctcx_cpu_phrases *phrases = ctcx_cpu_phrases_new(phrase_labels.get(), phrase_lengths.get(), phrase_weights.get(),
                                                   Size(p.phrase_lengths.size()));
  ctcx_cpu_ngrams *ngrams = p.has_model ? Model(p).made() : nullptr;
  if (!phrases || (p.has_model && !ngrams)) std::printf("no phrases or no model\n"), std::exit(1);
  guided_search(p, call, phrases, ngrams, {0, p.frames}, r);
  if (p.cut % 2) {
    Result parts;
    guided_search(p, call, phrases, ngrams, {0, p.cut, p.cut, p.frames}, parts);
    r.agrees_in_chunks = parts.guided == r.guided && parts.guided_labels == r.guided_labels;
  }
  ctcx_cpu_phrases_free(phrases), ctcx_cpu_ngrams_free(ngrams);
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

// The states of a sequence, by frame: logits, relative to the largest of the frame, and logarithms of
// the sums of all paths up to the frame, and from it on, each with the logits.
struct Lattice {
  Size length, count;
  std::vector<Size> columns;
  std::vector<double> emissions, forward, backward;
};

Lattice lattice_of(const Problem &p, Size n) {
  Lattice lattice{p.lengths[n], 2 * p.counts[n] + 1, {}, {}, {}, {}};
  const auto [length, count] = std::pair(lattice.length, lattice.count);
  for (Size s = 0; s < count; s++) lattice.columns.push_back(s % 2 ? p.labels[n * p.positions + s / 2] : p.blank);
  auto column = [&](Size s) { return lattice.columns[s]; };
  for (Size t = 0; t < length; t++) {
    const double *x = p.logits.data() + (n * p.frames + t) * p.classes, top = *std::max_element(x, x + p.classes);
    for (Size s = 0; s < count; s++) lattice.emissions.push_back(top == -infinity ? top : x[column(s)] - top);
  }
  auto emitted = [&](Size t, Size s) { return lattice.emissions[t * count + s]; };
  auto walk = [&](int turn) {
    std::vector<double> sums(length * count, -infinity);
    for (Size i = 0; i < length; i++)
      for (Size j = 0; j < count; j++) {
        const Size t = turn > 0 ? i : length - 1 - i, s = turn > 0 ? j : count - 1 - j;
        auto before = [&](Size back) { return i == 0 ? -infinity : sums[(t - turn) * count + s - turn * back]; };
        double into = i == 0 && j < 2 ? 0 : before(0);
        if (j > 0) into = log_sum(into, before(1));
        if (j > 1 && s % 2 && column(s) != column(s - turn * 2)) into = log_sum(into, before(2));
        sums[t * count + s] = into + emitted(t, s);
      }
    return sums;
  };
  lattice.forward = walk(1), lattice.backward = walk(-1);
  return lattice;
}

// The probability of each state at each frame, given the labels, (T, 2S + 1) (Graves et al. 2006,
// equation 14).
std::vector<double> occupancies_of(const Problem &p, const Lattice &lattice) {
  const auto &[length, count, _, emissions, forward, backward] = lattice;
  const Size columns = 2 * p.positions + 1;
  std::vector<double> result(p.frames * columns, 0);
  for (Size t = 0; t < length; t++) {
    std::vector<double> logs;
    double whole = -infinity;
    for (Size s = 0; s < count; s++) {
      const double x = emissions[t * count + s], both = forward[t * count + s] + backward[t * count + s];
      logs.push_back(x == -infinity ? x : both - x);
      whole = log_sum(whole, logs[s]);
    }
    for (Size s = 0; s < count && whole > -infinity; s++) result[t * columns + s] = std::exp(logs[s] - whole);
  }
  return result;
}

struct Path {
  std::vector<double> states, log_probs;  // (T,)
};

// The best path of a sequence, with a back pointer for each state.
Path best_path(const Problem &p, Size n) {
  const Size length = p.lengths[n], count = 2 * p.counts[n] + 1;
  auto emitted = [&](Size t, Size column) {
    const Size frame = n * p.frames + t;
    return column < p.classes ? p.logits[frame * p.classes + column] : p.extra[frame * p.columns + column - p.classes];
  };
  std::vector<Size> columns(count, p.blank);
  columns[count - 1] = p.last_blank, columns[0] = p.first_blank;
  for (Size i = 0; i < p.counts[n]; i++) columns[2 * i + 1] = p.aligned_labels[n * p.positions + i];
  auto largest = [&](Size t) {
    const double *x = p.logits.data() + (n * p.frames + t) * p.classes;
    const double top = *std::max_element(x, x + p.classes);
    return top == -infinity ? 0 : top;
  };
  std::vector<double> best(count, -infinity);
  best[0] = 0;  // before the first frame, in the blank before all labels
  std::vector<std::vector<int>> came(length, std::vector<int>(count, 0));
  for (Size t = 0; t < length; t++) {
    const std::vector<double> old = best;
    const double top = largest(t);
    for (Size s = 0; s < count; s++) {
      if (s > 0 && old[s - 1] > best[s]) best[s] = old[s - 1], came[t][s] = 1;
      if (s > 1 && s % 2 && columns[s] != columns[s - 2] && old[s - 2] > best[s]) best[s] = old[s - 2], came[t][s] = 2;
      best[s] += emitted(t, columns[s]) - top;
    }
  }
  Size state = count > 1 && best[count - 2] >= best[count - 1] ? count - 2 : count - 1;
  Path path{std::vector<double>(p.frames, -1), std::vector<double>(p.frames, 0)};
  if (best[state] == -infinity) return path;
  for (Size t = length - 1; t >= 0; t--) {
    const double *x = p.logits.data() + (n * p.frames + t) * p.classes;
    const double top = largest(t);
    double sum = 0;
    for (Size c = 0; c < p.classes; c++) sum += std::exp(x[c] - top);
    path.states[t] = double(state);
    // Without a class that isn't masked there is no denominator: extra columns stand as they are.
    path.log_probs[t] = emitted(t, columns[state]) - (sum == 0 ? 0 : top + std::log(sum));
    state -= came[t][state];
  }
  return path;
}

std::vector<double> log_softmax(const Problem &p, Size n, Size t) {
  const double *x = p.logits.data() + (n * p.frames + t) * p.classes;
  std::vector<double> logs(x, x + p.classes);
  const double top = *std::max_element(x, x + p.classes);
  if (top == -infinity) return logs;
  double sum = 0;
  for (double v : logs) sum += std::exp(v - top);
  for (double &v : logs) v = (v - top) - std::log(sum);
  return logs;
}

struct Prefix {
  std::vector<Size> labels;
  double blank, label, bonus = 0;
  double log_prob() const { return log_sum(blank, label); }
  double score() const { return log_prob() + bonus; }
};

double no_bonus(const std::vector<Size> &) { return 0; }

// The bonus of labels in a guided search, which go on or have ended.
double bonus_of(const Problem &p, const std::vector<Size> &labels, bool has_ended) {
  const Size count = Size(labels.size());
  std::vector<double> weights(count, -infinity);
  const std::int32_t *phrase = p.phrase_labels.data();
  for (std::size_t k = 0; k < p.phrase_lengths.size(); phrase += p.phrase_lengths[k++]) {
    const Size length = p.phrase_lengths[k];
    for (Size first = 0; first < count; first++) {
      const Size part = std::min(length, count - first);
      if ((part < length && has_ended) || !std::equal(phrase, phrase + part, labels.begin() + first)) continue;
      for (Size i = first; i < first + part; i++) weights[i] = std::max(weights[i], p.phrase_weights[k]);
    }
  }
  double sum = p.label_bonus * double(count);
  for (double weight : weights) sum += weight > -infinity ? weight : 0;
  return p.has_model ? sum + ngrams_weight * Model(p).log_prob(labels, has_ended) : sum;
}

// The beam of a sequence after its last frame, with all candidates of each frame, and the smallest
// difference between the last prefix that was kept and the first that wasn't.
template <class Bonus> std::vector<Prefix> beam_of(const Problem &p, Size n, const Bonus &bonus, double &closest) {
  std::vector<Prefix> beam{{{}, 0, -infinity}};
  closest = infinity;
  for (Size t = 0; t < p.lengths[n]; t++) {
    const std::vector<double> logs = log_softmax(p, n, t);
    std::vector<Size> labels;
    for (Size c = 0; c < p.classes; c++)
      if (c != p.blank) labels.push_back(c);
    std::stable_sort(labels.begin(), labels.end(), [&](Size a, Size b) { return logs[a] > logs[b]; });
    if (p.max_classes && p.max_classes < Size(labels.size())) labels.resize(p.max_classes);
    std::map<std::vector<Size>, Prefix> candidates;
    for (const Prefix &prefix : beam)
      candidates[prefix.labels] = {prefix.labels, prefix.log_prob() + logs[p.blank],
                                   prefix.labels.empty() ? -infinity : prefix.label + logs[prefix.labels.back()]};
    for (const Prefix &prefix : beam) {
      auto extend = [&](Size c, bool may_be_new) {
        std::vector<Size> longer = prefix.labels;
        longer.push_back(c);
        auto found = candidates.find(longer);
        if (found == candidates.end() && !may_be_new) return;
        const bool repeats = !prefix.labels.empty() && prefix.labels.back() == c;
        const double from = (repeats ? prefix.blank : prefix.log_prob()) + logs[c];
        if (found == candidates.end()) candidates[longer] = {longer, -infinity, from};
        else found->second.label = log_sum(found->second.label, from);
      };
      std::vector<bool> is_new(p.classes, false);
      for (Size c : labels) is_new[c] = true;
      for (Size c = 0; c < p.classes; c++)
        if (c != p.blank) extend(c, is_new[c]);
    }
    beam.clear();
    for (auto &[key, prefix] : candidates) {
      if (prefix.log_prob() == -infinity) continue;
      prefix.bonus = bonus(prefix.labels);
      beam.push_back(std::move(prefix));
    }
    std::stable_sort(beam.begin(), beam.end(), [](const Prefix &a, const Prefix &b) { return a.score() > b.score(); });
    if (Size(beam.size()) > p.width) {
      closest = std::min(closest, beam[p.width - 1].score() - beam[p.width].score());
      beam.resize(p.width);
    }
  }
  return beam;
}

void fail(const Problem &p, const char *what, Size n = -1) {
  std::printf("%s: type %d, N %ld, T %ld, C %ld, S %ld, blank %ld, time major %d, gradient %d, sequence %ld\n", what,
              p.type, long(p.sequences), long(p.frames), long(p.classes), long(p.positions), long(p.blank),
              p.time_major, p.gradient, long(n));
  std::exit(1);
}

void expect_drawn_paths(const Problem &p, const Result &result, Size n, const Lattice &lattice) {
  constexpr double as_near = 1e-5;  // where rounding may decide
  const Size last = lattice.count - 1;
  for (Size k = 0; k < p.paths; k++) {
    const double *states = result.drawn.data() + (n * p.paths + k) * p.frames;
    const double *uniforms = p.uniforms.data() + (n * p.paths + k) * p.frames;
    for (Size t = p.frames - 1; t >= 0; t--) {
      if (t >= lattice.length || !std::isfinite(result.losses[n])) {
        if (states[t] != -1) fail(p, "a state where none can be", n);
        continue;
      }
      const bool at_end = t == lattice.length - 1;
      const Size after = at_end ? last : Size(states[t + 1]);
      std::vector<Size> from{after, after - 1, after - 2};
      if (after % 2 == 0 || after < 3 || lattice.columns[after] == lattice.columns[after - 2]) from.pop_back();
      if (after == 0) from.pop_back();
      if (at_end) from = last > 0 ? std::vector<Size>{last - 1, last} : std::vector<Size>{last};
      double whole = -infinity, below = 0;
      for (Size s : from) whole = log_sum(whole, lattice.forward[t * lattice.count + s]);
      bool fits = false;  // whether the number lies between the bounds of the state
      for (Size s : from) {
        const double log = lattice.forward[t * lattice.count + s], above = below + std::exp(log - whole);
        if (states[t] == double(s) && log > -infinity) fits = uniforms[t] > below - as_near && uniforms[t] < above + as_near;
        below = above;
      }
      if (!fits) fail(p, "not the state that a number picks", n);
    }
  }
}

void expect_occupancies(const Problem &p, const Result &result, Size n) {
  const Size columns = 2 * p.positions + 1;
  std::vector<double> right;
  if (p.frames * columns <= most_states) {
    const Lattice lattice = lattice_of(p, n);
    right = occupancies_of(p, lattice);
    expect_drawn_paths(p, result, n, lattice);
  }
  const bool is_double = p.type == CTCX_CPU_FLOAT64, is_possible = std::isfinite(result.losses[n]);
  const double digits = is_double ? 1e-9 : 2e-5;
  auto is = [&](double got, double expected) { return got >= 0 && std::fabs(got - expected) <= digits; };
  for (Size t = 0; t < p.frames; t++) {
    const double *classes = result.of_classes.data() + (n * p.frames + t) * p.classes;
    const double *states = result.of_states.data() + (n * p.frames + t) * columns;
    double sum = 0;
    for (Size c = 0; c < p.classes; c++) sum += classes[c];
    if (!is(sum, is_possible && t < p.lengths[n])) fail(p, "occupancies that don't sum to 1", n);
    std::vector<double> expected(p.classes, 0);
    for (Size s = 0; s < columns && !right.empty(); s++) {
      const double here = is_possible ? right[t * columns + s] : 0;
      if (here > 0) expected[s % 2 ? p.labels[n * p.positions + s / 2] : p.blank] += here;
      if (p.gradient && !is(states[s], here)) fail(p, "a wrong occupancy of a state", n);
    }
    for (Size c = 0; c < p.classes && !right.empty(); c++)
      if (!is(classes[c], expected[c])) {
        std::printf("expected %.9g, got %.9g for class %ld at frame %ld\n", expected[c], classes[c], long(c), long(t));
        fail(p, "a wrong occupancy of a class", n);
      }
  }
}

void expect_best_path(const Problem &p, const Result &result, Size n) {
  const Path path = best_path(p, n);
  const double digits = p.type == CTCX_CPU_FLOAT64 ? 1e-9 : 1e-5;  // also of offsets, which cancel
  for (Size t = 0; t < p.frames; t++) {
    const double state = result.states[n * p.frames + t], log_prob = result.log_probs[n * p.frames + t];
    if (state != path.states[t]) {
      std::printf("state %g at frame %ld, expected %g\n", state, long(t), path.states[t]);
      fail(p, "not the best path", n);
    }
    if (!(std::fabs(log_prob - path.log_probs[t]) <= digits * (1 + std::fabs(path.log_probs[t])))) {
      std::printf("log_prob %.9g at frame %ld, expected %.9g\n", log_prob, long(t), path.log_probs[t]);
      fail(p, "a wrong probability of a path", n);
    }
  }
}

void expect_best_classes(const Problem &p, const Result &result, Size n) {
  const double digits = p.type == CTCX_CPU_FLOAT64 ? 1e-12 : 1e-6;
  for (Size t = 0; t < p.frames; t++) {
    double expected_class = -1, expected = 0;
    if (t < p.lengths[n]) {
      const std::vector<double> logs = log_softmax(p, n, t);
      const double *x = p.logits.data() + (n * p.frames + t) * p.classes;
      const Size best = std::max_element(x, x + p.classes) - x;
      expected = logs[best];
      if (expected > -infinity) expected_class = double(best);
    }
    const double got = result.class_log_probs[n * p.frames + t];
    if (result.classes[n * p.frames + t] != expected_class) fail(p, "not the best class", n);
    if (got != expected && !(std::fabs(got - expected) <= digits * (1 + std::fabs(expected))))
      fail(p, "a wrong probability of a class", n);
  }
}

void expect_best_prefixes(const Problem &p, const Result &result, Size n) {
  // Of what cancels, and so of offsets, the last digits aren't those of these logarithms.
  const double digits = p.type == CTCX_CPU_FLOAT64 ? 1e-8 : 1e-6, as_good_as_equal = 1e-7;
  double closest = 0;
  std::vector<Prefix> beam;
  if (p.lengths[n] * p.classes * p.width <= most_candidates) beam = beam_of(p, n, no_bonus, closest);
  double all = 0;
  for (Size i = 0; i < p.top; i++) {
    const double got = result.prefix_log_probs[n * p.top + i];
    const double *row = result.prefixes.data() + (n * p.top + i) * p.frames;
    std::vector<Size> labels;
    for (Size t = 0; t < p.frames && row[t] >= 0; t++) labels.push_back(Size(row[t]));
    if (std::any_of(row + labels.size(), row + p.frames, [](double label) { return label != -1; }))
      fail(p, "labels that aren't padded", n);
    if (!(got <= 0) || (i > 0 && got > result.prefix_log_probs[n * p.top + i - 1])) fail(p, "prefixes out of order", n);
    all += std::exp(got);
    if (closest < as_good_as_equal) continue;  // rounding may decide
    const double expected = i < Size(beam.size()) ? beam[i].log_prob() : -infinity;
    if (got != expected && !(std::fabs(got - expected) <= digits * (1 + std::fabs(expected)))) {
      std::printf("log_prob %.12g of prefix %ld, expected %.12g\n", got, long(i), expected);
      fail(p, "a wrong probability of a prefix", n);
    }
    if (i >= Size(beam.size())) continue;
    auto differs = [&](Size k) { return k < 0 || k >= Size(beam.size()) || std::fabs(beam[k].log_prob() - expected) > as_good_as_equal; };
    if (differs(i - 1) && differs(i + 1) && labels != beam[i].labels) fail(p, "not the best prefix", n);
  }
  if (!(all <= 1 + digits)) fail(p, "probabilities of more than 1 together", n);
}

void expect_guided(const Problem &p, const Result &result, Size n) {
  constexpr double as_good_as_equal = 1e-7;
  if (!result.agrees_in_chunks) fail(p, "a guided search that differs in chunks", n);
  if (p.lengths[n] * p.classes * p.width > most_guided_candidates) return;
  double closest = 0;
  const auto beam = beam_of(p, n, [&](const std::vector<Size> &labels) { return bonus_of(p, labels, false); }, closest);
  if (closest < as_good_as_equal) return;  // rounding may decide
  const auto score = [&](Size i) { return i < 0 || i >= Size(beam.size()) ? -infinity : beam[i].score(); };
  for (Size i = 0; i < p.width; i++) {
    const double *row = result.guided_labels.data() + (n * p.width + i) * p.frames;
    const double *numbers = result.guided.data() + n * p.width + i;
    const auto number = [&](int kind) { return numbers[kind * p.sequences * p.width]; };
    std::vector<Size> labels;
    for (Size t = 0; t < p.frames && row[t] >= 0; t++) labels.push_back(Size(row[t]));
    const auto is = [](double got, double right) {
      return got == right || std::fabs(got - right) <= 1e-8 * (1 + std::fabs(right));
    };
    if (i >= Size(beam.size())) {
      if (!labels.empty() || number(0) != -infinity || number(1) != -infinity) fail(p, "an entry too many", n);
      continue;
    }
    const double got = log_sum(number(0), number(1)) + number(2);
    if (!is(got, score(i))) {
      std::printf("score %.12g of entry %ld, expected %.12g\n", got, long(i), score(i));
      fail(p, "a wrong score of a guided search", n);
    }
    if (!is(number(2), bonus_of(p, labels, false)) || !is(number(3), bonus_of(p, labels, true)))
      fail(p, "a wrong bonus", n);
    const bool is_tie = i + 1 < Size(beam.size()) && score(i) - score(i + 1) <= as_good_as_equal;
    if (is_tie || (i > 0 && score(i - 1) - score(i) <= as_good_as_equal)) continue;
    if (labels != beam[i].labels) fail(p, "not the best entry of a guided search", n);
    if (!is(number(0), beam[i].blank) || !is(number(1), beam[i].label)) fail(p, "wrong logarithms of an entry", n);
  }
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
    for (int threads : {2, 3, INT32_MAX})
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
    if (alone.occupancy_losses != alone.losses) fail(p, "losses that differ beside occupancies");
    for (Size n = 0; n < p.sequences; n++) {
      if (!alone.is_weighted) fail(p, "a gradient that isn't the product with its weight", n);
      expect_occupancies(p, alone, n);
      expect_best_path(p, alone, n);
      expect_best_classes(p, alone, n);
      expect_best_prefixes(p, alone, n);
      expect_guided(p, alone, n);
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

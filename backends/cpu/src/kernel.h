// What each instruction set's kernel offers, and the batch that it works on.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "scratch.h"

struct ctcx_cpu_phrases;
struct ctcx_cpu_ngrams;

namespace ctcx {

using Size = std::int64_t;

// A loss above this, in nats, counts as infinite.
constexpr double largest_loss = 1.8e8;

enum class Type { float16, bfloat16, float32, float64 };

enum class State : char {
  wrong,       // a label or length out of range, or a label equal to the blank
  impossible,  // fewer frames than the labels need
  possible
};

// A batch whose labels and lengths have been copied and checked. Strides are in elements.
struct Batch {
  Type type;
  Size sequences, frames, classes, blank;
  const void *logits;
  Size logits_sequence, logits_row;
  void *gradient;  // null for the losses alone
  Size gradient_sequence, gradient_row;
  const void *weights;  // (N,), of the type of the losses; null if they are 1
  void *losses;
  // In place of a gradient, of the type of the losses. Of the states contiguous, or null.
  void *occupancies, *state_occupancies;
  Size occupancies_sequence, occupancies_row, state_columns;

  // Of alignments: more columns that labels may name, and what is written; both results are
  // contiguous.
  const void *extra;  // null if there are none
  Size extra_sequence, extra_row;
  Size first_blank, last_blank;  // columns
  std::int32_t *path;            // states (N, T), or (N, K, T) of sampled ones
  void *path_log_probs;

  // Of paths that are drawn: their number K, and uniforms (N, K, T), contiguous.
  Size paths;
  const void *uniforms;
  int uniform_bytes;

  // Of decoding: what is written, contiguous, and the beam.
  std::int32_t *decoded;  // (N, T) classes, or (N, top, T) labels
  void *decoded_log_probs;
  Size width, top, most_labels;

  // Of guided search: entries to begin with, null for the empty prefix; what it prefers; and what is
  // written besides.
  const std::int32_t *entry_labels;  // (N, W, L)
  Size entry_positions;
  const double *entry_numbers;  // (3, N, W)
  double *result_numbers;       // (4, N, W)
  const ctcx_cpu_phrases *phrases;
  const ctcx_cpu_ngrams *ngrams;
  double ngrams_weight, label_bonus;

  std::vector<State> states;
  std::vector<Size> lengths;         // frames of each sequence, within `frames`
  std::vector<Size> counts;          // labels of each sequence
  std::vector<Size> first_label;     // where they begin in `labels`
  std::vector<std::int32_t> labels;
};

// A sequence that is being computed: both halves, in scratch memory. The steps of a half run in
// order: softmax (optional), walk, then go_back if meet() said so.
class Sequence {
 public:
  virtual ~Sequence();  // not inline: no code may be shared between instruction sets
  // The softmax of frames `first` to `last - 1` of a half; see softmax_of_rows for the excess.
  virtual double softmax(int half, Size first, Size last) = 0;
  virtual double walk(int half, bool softmax_done) = 0;
  // Writes the loss, given the excess of all rows; returns whether there is a way back to go.
  virtual bool meet(double excess) = 0;
  virtual void go_back(int half) = 0;
};

// Called now and then by tasks that take long: may call code of the program's, which may call the
// library again, and throw Interrupted.
void pause();
constexpr Size frames_a_pause = 256;  // about; less where a frame takes long

struct Kernel {
  // Writes all that can be known of sequence n without its recursion; null if that is all.
  std::unique_ptr<Sequence> (*begin)(const Batch &, Size n, Scratch &);
  // The softmax of sequence n, to its gradient, and nothing else.
  void (*softmax_only)(const Batch &, Size n, Scratch &);
  // The best path of sequence n.
  void (*align)(const Batch &, Size n, Scratch &);
  // Paths of sequence n, by uniforms.
  void (*sample_paths)(const Batch &, Size n, Scratch &);
  // The best class of each frame of sequence n, and the best prefixes of its beam.
  void (*greedy)(const Batch &, Size n, Scratch &);
  void (*beam_search)(const Batch &, Size n, Scratch &);
  // The logarithms of the probabilities of frame t of sequence n; returns false if a logit is NaN or
  // +inf.
  bool (*log_probabilities)(const Batch &, Size n, Size t, Scratch &, double *);
  // The largest of n numbers, but for one place.
  double (*largest)(const double *, Size n, Size but);
  // Of n scores (total + p) + (before + (gain + refund)), writes those above `least` that have no bit in
  // `left_out`, and their places, added to `first_id`; returns how many they are. What is written has room
  // for `most_lanes` more.
  Size (*pick)(const double *p, const double *gains, double total, double before, double refund, double least,
               const std::uint64_t *left_out, Size n, std::int64_t first_id, double *scores, std::int64_t *ids);
  // Keeps those of n scores, none of them NaN, that are at least that, and their ids; returns how many.
  Size (*keep)(double *scores, std::int64_t *ids, Size n, double least);
  // Writes log(exp(a) + exp(b)) of n each. All have room for `most_lanes` more.
  void (*log_sums)(const double *a, const double *b, Size n, double *to);
  // A number that `many` of n scores reach, and few more, if there is one. n is at least `most_lanes`.
  double (*reached)(const double *scores, Size n, Size many);
  // Writes of each of n scores how many are larger. Both arrays have room for `most_lanes` more.
  void (*ranks)(double *scores, Size n, std::int32_t *to);
};
constexpr Size most_lanes = 8;

struct InstructionSet {
  const char *name;
  Kernel kernels[4];  // by Type
};

extern const InstructionSet baseline, avx2, avx512;  // which of them there are, the build says

// The best one that this processor has, or the one that CTCX_CPU_INSTRUCTIONS names.
const InstructionSet &instruction_set();

}  // namespace ctcx

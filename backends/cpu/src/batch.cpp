#include "batch.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <utility>

#include "guided.h"

namespace ctcx {

Sequence::~Sequence() = default;

void Arena::refuse() { throw std::bad_alloc(); }
#ifdef CTCX_CPU_SEPARATE_SCRATCH
bool Arena::planted_overrun() { return std::getenv("CTCX_CPU_PLANTED_OVERRUN"); }
#endif

namespace {

// Nanoseconds of work from which on it pays to hand a part of it to another thread.
constexpr double worth_a_thread = 200'000;
// Scratch memory, in bytes, that a thread keeps after a call.
constexpr std::size_t most_scratch_kept = 1 << 26;
// Classes from which on the softmax of few sequences is worth tasks of its own, and their size.
constexpr Size wide = 256, logits_a_task = 1 << 17;

struct KeptScratch {
  Scratch scratch;
  ~KeptScratch();
};
thread_local bool is_ending = false;  // a program may call the library while a thread ends, too
thread_local KeptScratch kept;
KeptScratch::~KeptScratch() { is_ending = true; }

// The scratch memory of a thread, for a task. The task has it for itself: what it calls may call the
// library again; see pause().
struct TaskScratch : Scratch {
  TaskScratch() : Scratch(is_ending ? Scratch() : std::exchange(kept.scratch, {})) {}
  ~TaskScratch() {
    keep_at_most(most_scratch_kept);
    if (!is_ending) kept.scratch = std::move(*this);
  }
};

Size element(const ctcx_cpu_integers &array, Size sequence, Size position = 0) {
  const Size at = sequence * array.sequence_stride + position * array.position_stride;
  if (array.bytes == 4) return static_cast<const std::int32_t *>(array.data)[at];
  return static_cast<const std::int64_t *>(array.data)[at];
}

// Estimate of the nanoseconds that the batch takes one thread.
double work_of(const Batch &batch) {
  double work = 0;
  for (Size n = 0; n < batch.sequences; n++)
    work += double(batch.lengths[n]) * (20 + 0.4 * double(batch.classes) + 1.5 * double(batch.counts[n] + 1));
  return work;
}

std::vector<Size> costliest_first(const Batch &batch) {
  std::vector<Size> order(batch.sequences);
  std::iota(order.begin(), order.end(), Size(0));
  auto cost = [&](Size n) { return double(batch.lengths[n]) * double(batch.classes + 4 * batch.counts[n]); };
  std::stable_sort(order.begin(), order.end(), [&](Size a, Size b) { return cost(a) > cost(b); });
  return order;
}

Team alone(const Team &team) { return {1, {}, team.interrupted}; }

// Whole sequences, the costliest first.
void share_sequences(const Batch &batch, const Team &team, const std::function<void(Size)> &compute) {
  const std::vector<Size> order = costliest_first(batch);
  team.share(batch.sequences, [&](Size i) { compute(order[i]); });
}

void compute_sequence(const Kernel &kernel, const Batch &batch, Size n) {
  TaskScratch scratch;
  if (auto sequence = kernel.begin(batch, n, scratch)) {
    double excess = sequence->walk(0, false);
    excess += sequence->walk(1, false);
    if (sequence->meet(excess)) sequence->go_back(0), sequence->go_back(1);
  }
}

// A sequence that is cut in the middle, with scratch memory of its own.
struct Cut {
  Scratch scratch;
  std::unique_ptr<Sequence> sequence;
  double excess[2] = {0, 0};
};

// Few long sequences: both ends of each at once, and the softmax before that if there are threads
// for it. The results are those of whole sequences, to the last bit.
void compute_cut(const Kernel &kernel, const Batch &batch, const Team &team) {
  std::vector<Cut> cuts(batch.sequences);
  std::vector<std::pair<Size, int>> halves;
  team.share(batch.sequences, [&](Size n) {
    cuts[n].sequence = kernel.begin(batch, n, cuts[n].scratch);
  });
  for (Size n : costliest_first(batch))
    if (cuts[n].sequence) halves.push_back({n, 0}), halves.push_back({n, 1});

  const bool softmax_first =
      batch.gradient && batch.classes >= wide && team.threads > Size(halves.size());
  if (softmax_first) {
    struct Part {
      Size n, first, last;
      int half;
      double excess;
    };
    const Size step = std::max(logits_a_task / batch.classes, Size(1));
    std::vector<Part> parts;
    for (auto [n, half] : halves)
      for (Size first = 0; 2 * first < batch.lengths[n] + 1; first += step)
        parts.push_back({n, first, first + step, half, 0});
    team.share(Size(parts.size()), [&](Size i) {
      Part &part = parts[i];
      part.excess = cuts[part.n].sequence->softmax(part.half, part.first, part.last);
    });
    for (const Part &part : parts) cuts[part.n].excess[part.half] += part.excess;
  }
  team.share(Size(halves.size()), [&](Size i) {
    auto [n, half] = halves[i];
    cuts[n].excess[half] += cuts[n].sequence->walk(half, softmax_first);
  });
  std::vector<std::pair<Size, int>> back;
  for (auto [n, half] : halves)
    if (half == 0 && cuts[n].sequence->meet(cuts[n].excess[0] + cuts[n].excess[1]))
      back.push_back({n, 0}), back.push_back({n, 1});
  team.share(Size(back.size()), [&](Size i) { cuts[back[i].first].sequence->go_back(back[i].second); });
}

const Kernel &kernel_of(const Batch &batch) {
  return instruction_set().kernels[static_cast<int>(batch.type)];
}

}  // namespace

Batch read(const ctcx_cpu_batch &call, bool for_align) {
  Batch batch{};
  batch.type = static_cast<Type>(call.type);
  batch.sequences = call.sequences, batch.frames = call.frames;
  batch.classes = call.classes, batch.blank = call.blank;
  batch.logits = call.logits;
  batch.logits_sequence = call.logits_sequence_stride, batch.logits_row = call.logits_frame_stride;
  batch.gradient = call.gradient, batch.losses = call.losses;
  batch.gradient_sequence = call.gradient_sequence_stride;
  batch.gradient_row = call.gradient_frame_stride;
  batch.weights = call.gradient_weights;
  batch.occupancies = call.class_occupancies, batch.state_occupancies = call.state_occupancies;
  batch.occupancies_sequence = call.class_occupancies_sequence_stride;
  batch.occupancies_row = call.class_occupancies_frame_stride;
  batch.state_columns = 2 * call.label_positions + 1;
  batch.first_blank = batch.last_blank = call.blank;
  Size columns = call.classes;
  if (for_align) {
    columns += call.extra_columns;
    batch.extra = call.extra_columns > 0 ? call.extra : nullptr;
    batch.extra_sequence = call.extra_sequence_stride, batch.extra_row = call.extra_frame_stride;
    if (call.free_ends) batch.first_blank = call.first_blank, batch.last_blank = call.last_blank;
  }
  batch.path = call.states, batch.path_log_probs = call.log_probs;
  batch.paths = call.paths, batch.uniforms = call.uniforms, batch.uniform_bytes = call.uniform_bytes;
  batch.decoded = call.decoded, batch.decoded_log_probs = call.decoded_log_probs;
  batch.width = call.width, batch.top = call.top;
  batch.most_labels = call.max_classes > 0 ? std::min(call.max_classes, call.classes) : call.classes;
  batch.entry_labels = call.entry_labels, batch.entry_positions = call.entry_positions;
  batch.entry_numbers = call.entry_numbers, batch.result_numbers = call.result_numbers;
  batch.phrases = call.phrases, batch.ngrams = call.ngrams;
  batch.ngrams_weight = call.ngrams_weight, batch.label_bonus = call.label_bonus;
  for (Size n = 0; n < call.sequences; n++) {
    const Size length = element(call.logit_lengths, n), count = element(call.label_lengths, n);
    State state = State::possible;
    if (length < 0 || length > call.frames || count < 0 || count > call.label_positions)
      state = State::wrong;
    batch.first_label.push_back(Size(batch.labels.size()));
    Size needed = state == State::wrong ? 0 : count;  // frames, with a blank between equal labels
    for (Size i = 0; state == State::possible && i < count; i++) {
      const Size label = element(call.labels, n, i);
      if (label < 0 || label >= columns || label == call.blank) state = State::wrong;
      if (i > 0 && label == batch.labels.back()) needed++;
      batch.labels.push_back(std::int32_t(label));
    }
    if (state == State::possible && needed > length) state = State::impossible;
    batch.states.push_back(state);
    batch.lengths.push_back(length < 0 || length > call.frames ? call.frames : length);
    batch.counts.push_back(state == State::wrong ? 0 : count);
  }
  return batch;
}

void compute(const Batch &batch, const Team &team) {
  const Kernel &kernel = kernel_of(batch);
  const double work = work_of(batch), count = double(batch.sequences);
  const bool worth = team.threads > 1 && work > worth_a_thread;
  if (worth && (batch.sequences == 1 ||
                (batch.sequences < 2 * Size(team.threads) && work > 5 * worth_a_thread * count))) {
    compute_cut(kernel, batch, team);
    return;
  }
  share_sequences(batch, worth ? team : alone(team), [&](Size n) { compute_sequence(kernel, batch, n); });
}

void compute_softmax_only(const Batch &batch, const Team &team) {
  const Kernel &kernel = kernel_of(batch);
  team.share(batch.sequences, [&](Size n) {
    TaskScratch scratch;
    kernel.softmax_only(batch, n, scratch);
  });
}

void align(const Batch &batch, const Team &team) {
  const Kernel &kernel = kernel_of(batch);
  share_sequences(batch, work_of(batch) > worth_a_thread ? team : alone(team), [&](Size n) {
    TaskScratch scratch;
    kernel.align(batch, n, scratch);
  });
}

void sample_paths(const Batch &batch, const Team &team) {
  const Kernel &kernel = kernel_of(batch);
  const double steps = double(batch.sequences) * double(batch.frames) * double(batch.paths);
  share_sequences(batch, work_of(batch) + 10 * steps > worth_a_thread ? team : alone(team), [&](Size n) {
    TaskScratch scratch;
    kernel.sample_paths(batch, n, scratch);
  });
}

void greedy(const Batch &batch, const Team &team) {
  const Kernel &kernel = kernel_of(batch);
  share_sequences(batch, work_of(batch) > worth_a_thread ? team : alone(team),
                  [&](Size n) {
                    TaskScratch scratch;
                    kernel.greedy(batch, n, scratch);
                  });
}

void beam_search(const Batch &batch, const Team &team) {
  const Kernel &kernel = kernel_of(batch);
  const double work = work_of(batch) * (1 + 0.1 * double(batch.width));
  share_sequences(batch, work > worth_a_thread ? team : alone(team), [&](Size n) {
    TaskScratch scratch;
    kernel.beam_search(batch, n, scratch);
  });
}

void guided_search(const Batch &batch, const Team &team) {
  const Kernel &kernel = kernel_of(batch);
  const double work = work_of(batch) * (1 + double(batch.width));
  share_sequences(batch, work > worth_a_thread ? team : alone(team), [&](Size n) {
    TaskScratch scratch;
    guided_search_of(batch, n, kernel, scratch);
  });
}

}  // namespace ctcx

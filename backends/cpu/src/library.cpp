// The C interface.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string_view>

#include "batch.h"
#include "ngrams.h"
#include "phrases.h"

namespace ctcx {

#if defined(CTCX_CPU_HAS_avx2) || defined(CTCX_CPU_HAS_avx512)
static bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif
#if defined(CTCX_CPU_LOWERED)
static bool has_avx512() { return has_avx2(); }  // it was compiled for that
#elif defined(CTCX_CPU_HAS_avx512)
static bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

static const InstructionSet &choose() {
  const char *asked = std::getenv("CTCX_CPU_INSTRUCTIONS");
  const std::string_view name = asked ? asked : "";
  if (name == "baseline") return baseline;
#ifdef CTCX_CPU_HAS_avx512
  if (name != "avx2" && has_avx512()) return avx512;
#endif
#ifdef CTCX_CPU_HAS_avx2
  if (has_avx2()) return avx2;
#endif
  return baseline;
}

// Two threads may choose at once. A lock could be held for ever in a child that is forked meanwhile.
const InstructionSet &instruction_set() {
  static std::atomic<const InstructionSet *> chosen{nullptr};
  if (!chosen) chosen = &choose();
  return *chosen;
}

}  // namespace ctcx

namespace {

constexpr ctcx::Size largest = ctcx::Size(1) << 47;  // elements: strides and sizes stay in range

bool is_in(ctcx::Size value, ctcx::Size low, ctcx::Size high) { return low <= value && value <= high; }

const char *wrong_integers(const ctcx_cpu_integers &array) {
  if (array.bytes != 4 && array.bytes != 8) return "integers must be of 4 or 8 bytes";
  if (!is_in(array.sequence_stride, -largest, largest) ||
      !is_in(array.position_stride, -largest, largest))
    return "the stride of an array of integers is too large";
  return nullptr;
}

// Sizes of a batch of version 1.0, to which later ones append fields, and of any that there will be.
constexpr std::size_t first_size = offsetof(ctcx_cpu_batch, context) + sizeof(void *);
constexpr std::size_t largest_size = 4096;

// The fields that this library knows. Those that the caller's header doesn't have are 0.
ctcx_cpu_batch known_fields(const ctcx_cpu_batch &batch) {
  ctcx_cpu_batch known{};
  std::memcpy(&known, &batch, std::min(batch.size, sizeof known));
  return known;
}

// The same, for decoding: labels are none, whatever the fields say.
ctcx_cpu_batch without_labels(const ctcx_cpu_batch &batch) {
  static const std::int32_t none = 0;
  ctcx_cpu_batch known = known_fields(batch);
  known.label_positions = 0;
  known.labels = known.label_lengths = {&none, sizeof none, 0, 0, 0};
  return known;
}

bool has_unknown_fields(const ctcx_cpu_batch &batch) {
  const char *bytes = reinterpret_cast<const char *>(&batch);
  return batch.size > sizeof batch &&
         std::any_of(bytes + sizeof batch, bytes + batch.size, [](char byte) { return byte != 0; });
}

const char *wrong_version(const ctcx_cpu_batch *given) {
  if (!given) return "the batch is NULL";
  if (!is_in(given->size, first_size, largest_size) || given->major != CTCX_CPU_MAJOR)
    return "the batch is of another version of this interface";
  if (has_unknown_fields(*given)) return "the batch has a field that this version doesn't know";
  return nullptr;
}

// What all computations read.
const char *wrong_inputs(const ctcx_cpu_batch *batch) {
  if (!is_in(batch->type, CTCX_CPU_FLOAT16, CTCX_CPU_FLOAT64)) return "type is unknown";
  if (!is_in(batch->sequences, 0, largest)) return "sequences is out of range";
  if (!is_in(batch->frames, 0, largest)) return "frames is out of range";
  if (!is_in(batch->classes, 1, INT32_MAX)) return "classes must be from 1 to 2^31 - 1";
  if (!is_in(batch->label_positions, 0, largest)) return "label_positions is out of range";
  if (!is_in(batch->blank, 0, batch->classes - 1)) return "blank must be from 0 to classes - 1";
  for (const auto *array : {&batch->labels, &batch->logit_lengths, &batch->label_lengths})
    if (const char *wrong = wrong_integers(*array)) return wrong;
  for (ctcx::Size stride : {batch->logits_sequence_stride, batch->logits_frame_stride})
    if (!is_in(stride, -largest, largest)) return "a stride is too large";
  if (batch->threads < 0) return "threads must not be negative";
  if (batch->sequences == 0) return nullptr;
  if (!batch->logit_lengths.data || !batch->label_lengths.data) return "lengths are NULL";
  if (batch->label_positions > 0 && !batch->labels.data) return "labels are NULL";
  if (batch->frames > 0 && !batch->logits) return "logits are NULL";
  return nullptr;
}

// Checks a batch and computes it; returns an enum ctcx_cpu_status.
int run(const ctcx::Operation &operation, const ctcx_cpu_batch *call) {
  if (operation.check(call)) return CTCX_CPU_INVALID;
  ctcx::Team team{call->threads > 0 ? call->threads : ctcx::usable_cores(), ctcx::recruit_from_pool, {}};
  ctcx::UsualArithmetic arithmetic;
  if (call->interrupted)
    team.interrupted = [call, &arithmetic] {
      arithmetic.leave();
      const bool told = call->interrupted(call->context) != 0;
      arithmetic.enter();
      return told;
    };
  try {
    operation.compute(*call, team);
  } catch (const ctcx::Interrupted &) {
    return CTCX_CPU_INTERRUPTED;
  } catch (const std::bad_alloc &) {
    return CTCX_CPU_NO_MEMORY;
  } catch (const std::length_error &) {  // more than a vector holds
    return CTCX_CPU_NO_MEMORY;
  }
  return CTCX_CPU_OK;
}

}  // namespace

namespace ctcx {

const Operation operations[]{
    {"loss", true, ctcx_cpu_check,
     [](const ctcx_cpu_batch &given, const Team &team) {
       ctcx_cpu_batch call = known_fields(given);
       call.class_occupancies = call.state_occupancies = nullptr;
       if (call.softmax_only) compute_softmax_only(read(call), team);
       else compute(read(call), team);
     }},
    {"occupancies", true, ctcx_cpu_check_occupancies,
     [](const ctcx_cpu_batch &given, const Team &team) {
       ctcx_cpu_batch call = known_fields(given);
       call.gradient = nullptr;
       compute(read(call), team);
     }},
    {"align", true, ctcx_cpu_check_align,
     [](const ctcx_cpu_batch &given, const Team &team) { align(read(known_fields(given), true), team); }},
    {"sample_paths", true, ctcx_cpu_check_sample_paths,
     [](const ctcx_cpu_batch &given, const Team &team) { sample_paths(read(known_fields(given)), team); }},
    {"greedy", false, ctcx_cpu_check_greedy,
     [](const ctcx_cpu_batch &given, const Team &team) { greedy(read(without_labels(given)), team); }},
    {"beam_search", false, ctcx_cpu_check_beam_search,
     [](const ctcx_cpu_batch &given, const Team &team) { beam_search(read(without_labels(given)), team); }},
};

// None of XLA's: its arrays have no room for what this one returns.
static const Operation guided{
    "guided_search", false, ctcx_cpu_check_guided_search,
    [](const ctcx_cpu_batch &given, const Team &team) { guided_search(read(without_labels(given)), team); }};

const Operation *operation_of(std::string_view name) {
  for (const Operation &operation : operations)
    if (operation.name == name) return &operation;
  return nullptr;
}

}  // namespace ctcx

extern "C" {

const char *ctcx_cpu_check(const ctcx_cpu_batch *given) {
  if (const char *wrong = wrong_version(given)) return wrong;
  const ctcx_cpu_batch known = known_fields(*given), *batch = &known;
  if (const char *wrong = wrong_inputs(batch)) return wrong;
  for (ctcx::Size stride : {batch->gradient_sequence_stride, batch->gradient_frame_stride})
    if (!is_in(stride, -largest, largest)) return "a stride is too large";
  if (batch->sequences == 0) return nullptr;
  if (!batch->softmax_only && !batch->losses) return "losses are NULL";
  if (batch->softmax_only && !batch->gradient) return "softmax_only needs a gradient to write to";
  if (batch->frames > 0 && batch->gradient == batch->logits) return "gradient must not be the logits' memory";
  return nullptr;
}

const char *ctcx_cpu_check_align(const ctcx_cpu_batch *given) {
  if (const char *wrong = wrong_version(given)) return wrong;
  const ctcx_cpu_batch known = known_fields(*given), *batch = &known;
  if (const char *wrong = wrong_inputs(batch)) return wrong;
  if (!is_in(batch->extra_columns, 0, INT32_MAX - batch->classes))
    return "classes and extra_columns must be at most 2^31 - 1 together";
  for (ctcx::Size stride : {batch->extra_sequence_stride, batch->extra_frame_stride})
    if (!is_in(stride, -largest, largest)) return "a stride is too large";
  for (ctcx::Size column : {batch->first_blank, batch->last_blank})
    if (batch->free_ends && !is_in(column, 0, batch->classes + batch->extra_columns - 1))
      return "first_blank and last_blank must be columns";
  if (batch->label_positions > INT32_MAX / 2) return "label_positions must be below 2^30";
  if (batch->sequences == 0 || batch->frames == 0) return nullptr;
  if (batch->extra_columns > 0 && !batch->extra) return "extra is NULL";
  if (!batch->states || !batch->log_probs) return "states or log_probs are NULL";
  return nullptr;
}

const char *ctcx_cpu_check_occupancies(const ctcx_cpu_batch *given) {
  if (const char *wrong = wrong_version(given)) return wrong;
  const ctcx_cpu_batch known = known_fields(*given), *batch = &known;
  if (const char *wrong = wrong_inputs(batch)) return wrong;
  for (ctcx::Size stride : {batch->class_occupancies_sequence_stride, batch->class_occupancies_frame_stride})
    if (!is_in(stride, -largest, largest)) return "a stride is too large";
  if (batch->sequences == 0) return nullptr;
  if (!batch->losses) return "losses are NULL";
  if (batch->frames > 0 && !batch->class_occupancies) return "class_occupancies are NULL";
  if (batch->frames > 0 && batch->class_occupancies == batch->logits)
    return "class_occupancies must not be the logits' memory";
  return nullptr;
}

const char *ctcx_cpu_check_sample_paths(const ctcx_cpu_batch *given) {
  if (const char *wrong = wrong_version(given)) return wrong;
  const ctcx_cpu_batch known = known_fields(*given), *batch = &known;
  if (const char *wrong = wrong_inputs(batch)) return wrong;
  if (batch->label_positions > INT32_MAX / 2) return "label_positions must be below 2^30";
  if (!is_in(batch->paths, 0, largest)) return "paths is out of range";
  if (batch->uniform_bytes != 4 && batch->uniform_bytes != 8) return "uniforms must be of 4 or 8 bytes";
  if (batch->sequences == 0 || batch->frames == 0 || batch->paths == 0) return nullptr;
  if (!batch->uniforms || !batch->states) return "uniforms or states are NULL";
  return nullptr;
}

const char *ctcx_cpu_check_greedy(const ctcx_cpu_batch *given) {
  if (const char *wrong = wrong_version(given)) return wrong;
  const ctcx_cpu_batch known = without_labels(*given), *batch = &known;
  if (const char *wrong = wrong_inputs(batch)) return wrong;
  if (batch->sequences == 0 || batch->frames == 0) return nullptr;
  if (!batch->decoded || !batch->decoded_log_probs) return "decoded or decoded_log_probs are NULL";
  return nullptr;
}

const char *ctcx_cpu_check_beam_search(const ctcx_cpu_batch *given) {
  if (const char *wrong = wrong_version(given)) return wrong;
  const ctcx_cpu_batch known = without_labels(*given), *batch = &known;
  if (const char *wrong = wrong_inputs(batch)) return wrong;
  if (!is_in(batch->width, 1, INT32_MAX)) return "width must be from 1 to 2^31 - 1";
  if (!is_in(batch->top, 1, batch->width)) return "top must be from 1 to width";
  if (batch->max_classes < 0) return "max_classes must not be negative";
  if (batch->sequences == 0) return nullptr;
  if (!batch->decoded_log_probs) return "decoded_log_probs are NULL";
  if (batch->frames > 0 && !batch->decoded) return "decoded is NULL";
  return nullptr;
}

const char *ctcx_cpu_check_guided_search(const ctcx_cpu_batch *given) {
  if (const char *wrong = wrong_version(given)) return wrong;
  const ctcx_cpu_batch known = without_labels(*given), *batch = &known;
  if (const char *wrong = wrong_inputs(batch)) return wrong;
  if (!is_in(batch->width, 1, INT32_MAX)) return "width must be from 1 to 2^31 - 1";
  if (batch->max_classes < 0) return "max_classes must not be negative";
  if (!is_in(batch->entry_positions, 0, largest)) return "entry_positions is out of range";
  if (!(batch->ngrams_weight >= 0) || !std::isfinite(batch->ngrams_weight))
    return "ngrams_weight must be a finite number from 0 on";
  if (!std::isfinite(batch->label_bonus)) return "label_bonus must be finite";
  if (batch->phrases && batch->phrases->largest_label() >= batch->classes)
    return "phrases have a label that is no class";
  if (batch->ngrams && batch->ngrams->classes() != batch->classes) return "ngrams has not a token for each class";
  if (double(batch->sequences) * double(batch->width) * double(batch->entry_positions + batch->frames + 4) > double(largest))
    return "results are too large";
  if (batch->sequences == 0) return nullptr;
  if (!batch->result_numbers) return "result_numbers are NULL";
  if (batch->frames + batch->entry_positions > 0 && !batch->decoded) return "decoded is NULL";
  if (batch->entry_positions > 0 && !batch->entry_labels) return "entry_labels are NULL";
  if (batch->entry_positions > 0 && !batch->entry_numbers) return "entry_numbers are NULL";
  return nullptr;
}

int ctcx_cpu_guided_search(const ctcx_cpu_batch *batch) { return run(ctcx::guided, batch); }

ctcx_cpu_phrases *ctcx_cpu_phrases_new(const std::int32_t *labels, const std::int64_t *lengths, const double *weights,
                                       std::int64_t count) {
  if (count > 0 && !(labels && lengths && weights)) return nullptr;
  try {
    auto made = std::make_unique<ctcx_cpu_phrases>();
    return made->build(labels, lengths, weights, count) ? made.release() : nullptr;
  } catch (const std::exception &) {  // no memory, or more than a vector holds
    return nullptr;
  }
}
void ctcx_cpu_phrases_free(ctcx_cpu_phrases *phrases) { delete phrases; }

ctcx_cpu_ngrams *ctcx_cpu_ngrams_new(const ctcx_cpu_strings *words, const ctcx_cpu_strings *tokens,
                                     std::int64_t separator, std::int32_t order, const std::int32_t *sizes,
                                     const std::int32_t *grams, const double *log_probs, const double *back_offs,
                                     std::int64_t count) {
  if (!words || !tokens || !sizes || !grams || !log_probs || !back_offs) return nullptr;
  try {
    auto made = std::make_unique<ctcx_cpu_ngrams>();
    const bool fits = made->build(*words, *tokens, separator, order, sizes, grams, log_probs, back_offs, count);
    return fits ? made.release() : nullptr;
  } catch (const std::exception &) {
    return nullptr;
  }
}
void ctcx_cpu_ngrams_free(ctcx_cpu_ngrams *ngrams) { delete ngrams; }

#define DEFINE(function, operation) \
  int function(const ctcx_cpu_batch *batch) { return run(*ctcx::operation_of(operation), batch); }
DEFINE(ctcx_cpu_compute, "loss")
DEFINE(ctcx_cpu_occupancies, "occupancies")
DEFINE(ctcx_cpu_align, "align")
DEFINE(ctcx_cpu_sample_paths, "sample_paths")
DEFINE(ctcx_cpu_greedy, "greedy")
DEFINE(ctcx_cpu_beam_search, "beam_search")
#undef DEFINE

const char *ctcx_cpu_version(void) { return "1.5"; }

const char *ctcx_cpu_instructions(void) {
#if defined(__aarch64__)
  return "neon";
#else
  return ctcx::instruction_set().name;
#endif
}

}  // extern "C"

/* ctcx_cpu: the CTC loss, its gradient, occupancies, alignments and decoding on the CPU, for any language that can call C.
 *
 * A call computes a batch: logits (N, T, C) before the softmax, labels (N, S), and the lengths of
 * both, to losses (N,) in nats and the gradient (N, T, C) with respect to the logits.
 *
 * - Losses are float64 for float64 logits, else float32. The gradient is of the type of the logits.
 * - Labels that no path can emit have the loss +inf and the gradient 0, as have losses above 1.8e8.
 * - A sequence with a label or length out of range, a label equal to the blank, or a NaN or +inf
 *   logit in its frames has the loss NaN and the gradient NaN. The others are right.
 * - The gradient is 0 in the frames past a sequence's length. Entries past lengths are ignored.
 * - Results are the same to the last bit for any number of threads.
 *
 * Arrays of results must not overlap each other, nor those that are read: logits are read again
 * after the first results have been written.
 *
 * Labels and lengths are copied before they are checked, so another thread that changes them can
 * spoil a result, and nothing else. The library has no state but its threads, which it starts when
 * a call needs them, and which a forked child starts anew. They take no signals. They wait in its code
 * for the next call, so it stays loaded when a program closes it (dlclose, FreeLibrary). A thread that
 * is cancelled while it waits for them in a call (pthread_cancel) returns from the call first.
 */
#ifndef CTCX_CPU_H
#define CTCX_CPU_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#ifdef CTCX_CPU_BUILDING
#define CTCX_CPU_API __declspec(dllexport)
#else
#define CTCX_CPU_API __declspec(dllimport)
#endif
#else
#define CTCX_CPU_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Version of this interface. A library takes batches of its own major version and any minor one:
 * each minor version may append fields to the batch, where 0 stands for what was done before. Fields
 * that the caller's header doesn't have count as 0; one that the library doesn't have must be 0. */
#define CTCX_CPU_MAJOR 1
#define CTCX_CPU_MINOR 5

enum ctcx_cpu_type {
  CTCX_CPU_FLOAT16 = 0,
  CTCX_CPU_BFLOAT16 = 1,
  CTCX_CPU_FLOAT32 = 2,
  CTCX_CPU_FLOAT64 = 3
};

enum ctcx_cpu_status {
  CTCX_CPU_OK = 0,
  CTCX_CPU_INVALID = 1,     /* a field of the batch makes no sense: ctcx_cpu_check says which */
  CTCX_CPU_NO_MEMORY = 2,   /* scratch memory could not be allocated */
  CTCX_CPU_INTERRUPTED = 3  /* `interrupted` said so, or this is a child that it or a signal handler
                             * forked from a call of several threads; results are incomplete */
};

/* An array of integers, int32 or int64. Strides are in elements and may be negative. */
struct ctcx_cpu_integers {
  const void *data;
  int32_t bytes;            /* of an element: 4 or 8 */
  int32_t reserved;         /* 0 */
  int64_t sequence_stride;
  int64_t position_stride;  /* of the labels; unused for lengths */
};

/* Texts one after another, in UTF-8: where each of them ends, in bytes from the first. */
struct ctcx_cpu_strings {
  const char *text;
  const int64_t *ends;
  int64_t count;
};

/* Since 1.4: what a guided search prefers, made once for any number of calls, of several threads too. It
 * is freed after the last of them; the arrays that it is made of may go at once. */
struct ctcx_cpu_phrases;
struct ctcx_cpu_ngrams;

/* A batch. Set it all to 0, then size, major, and what the call needs. */
struct ctcx_cpu_batch {
  size_t size;              /* sizeof(struct ctcx_cpu_batch) */
  int32_t major;            /* CTCX_CPU_MAJOR */
  int32_t type;             /* enum ctcx_cpu_type, of the logits and the gradient */

  int64_t sequences;        /* N */
  int64_t frames;           /* T */
  int64_t classes;          /* C, from 1 to 2^31 - 1 */
  int64_t label_positions;  /* S */
  int64_t blank;            /* class of the blank, from 0 to C - 1 */

  const void *logits;       /* classes lie side by side; strides are in elements */
  int64_t logits_sequence_stride;
  int64_t logits_frame_stride;
  struct ctcx_cpu_integers labels;
  struct ctcx_cpu_integers logit_lengths;
  struct ctcx_cpu_integers label_lengths;

  void *losses;             /* (N,), contiguous */
  void *gradient;           /* as the logits; NULL for the losses alone */
  int64_t gradient_sequence_stride;
  int64_t gradient_frame_stride;

  int32_t threads;          /* at most, the caller's among them; 0: as many as there are cores */
  int32_t softmax_only;     /* not 0: write the softmax to `gradient`, and no losses (for timing) */

  /* Asked now and then by the calling thread; not 0 ends the call. May be NULL. It may call the
   * library, end its thread, and throw what C++ catches outside of the call. */
  int (*interrupted)(void *context);
  void *context;

  /* Since 1.1, for ctcx_cpu_align: more columns (N, T, W), beside the classes and no part of the
   * softmax, which labels may name as C to C + W - 1. Of float64 for float64 logits, else float32;
   * columns lie side by side. */
  const void *extra;
  int64_t extra_columns;    /* W, or 0 */
  int64_t extra_sequence_stride;
  int64_t extra_frame_stride;
  int32_t free_ends;        /* not 0: first_blank and last_blank count */
  int32_t reserved;         /* 0 */
  int64_t first_blank;      /* columns, from 0 to C + W - 1, of the blanks before the first label and */
  int64_t last_blank;       /* after the last one; without labels the first counts */
  int32_t *states;          /* (N, T), contiguous */
  void *log_probs;          /* (N, T), contiguous; of float64 for float64 logits, else float32 */

  /* Since 1.2, for ctcx_cpu_greedy and ctcx_cpu_beam_search. */
  int32_t *decoded;         /* (N, T) or (N, top, T), contiguous */
  void *decoded_log_probs;  /* (N, T) or (N, top), contiguous; of float64 for float64 logits, else float32 */
  int64_t width;            /* of the beam, from 1 on */
  int64_t top;              /* how many of its prefixes are written, from 1 to width */
  int64_t max_classes;      /* labels that a frame may add to prefixes, the most probable; 0: all */

  /* Since 1.3, for ctcx_cpu_occupancies: of float64 for float64 logits, else float32. */
  void *class_occupancies;  /* (N, T, C); classes lie side by side */
  int64_t class_occupancies_sequence_stride;
  int64_t class_occupancies_frame_stride;
  void *state_occupancies;  /* (N, T, 2S + 1), contiguous; NULL if they aren't wanted */

  /* Since 1.3, for ctcx_cpu_sample_paths, whose `states` are (N, K, T), contiguous. */
  const void *uniforms;     /* (N, K, T), contiguous: numbers from 0 up to, but not including, 1 */
  int32_t uniform_bytes;    /* of an element: 4 (float) or 8 (double) */
  int32_t reserved_too;     /* 0 */
  int64_t paths;            /* K */

  /* Since 1.4, for ctcx_cpu_guided_search, whose `decoded` is (N, width, L + T). All contiguous. */
  const int32_t *entry_labels;  /* (N, width, L), padded with -1 */
  int64_t entry_positions;      /* L; 0 to begin */
  const double *entry_numbers;  /* (3, N, width), the first three of `result_numbers`; NULL to begin */
  double *result_numbers;       /* (4, N, width) */
  const struct ctcx_cpu_phrases *phrases; /* NULL for none */
  const struct ctcx_cpu_ngrams *ngrams;   /* NULL for none */
  double ngrams_weight;         /* what the logarithms of the model are multiplied by, from 0 on */
  double label_bonus;           /* what each label adds */

  /* Since 1.5, for ctcx_cpu_compute: (N,), contiguous, of float64 for float64 logits, else float32. The
   * gradient of each sequence is multiplied by its weight, before it is rounded to half precision; losses
   * aren't. NULL for weights of 1. */
  const void *gradient_weights;
};

/* Computes a batch; returns an enum ctcx_cpu_status. May be called from several threads at once. */
CTCX_CPU_API int ctcx_cpu_compute(const struct ctcx_cpu_batch *batch);

/* What is wrong with a batch, in English, or NULL if nothing is. Reads no array. */
CTCX_CPU_API const char *ctcx_cpu_check(const struct ctcx_cpu_batch *batch);

/* Since 1.1: the path of each sequence with the largest sum of logits, to `states`: 2j in the blank
 * before label j, 2j + 1 in label j, -1 past the length. `log_probs` are the logits along it, less
 * the logarithm of the frame's sum of exponentials, and 0 past the length. Losses and gradient are
 * ignored.
 *
 * - Of equal sums, staying in a state comes before coming from the state before, and that before
 *   two states before; the last label comes before the blank after it. Sums are in double.
 * - Labels that no path can emit have the states -1 and log_probs of 0; a sequence that would have
 *   the loss NaN has the states -1 and log_probs of NaN, in all T frames.
 *
 * Returns an enum ctcx_cpu_status. ctcx_cpu_check_align says what is wrong with such a batch. */
CTCX_CPU_API int ctcx_cpu_align(const struct ctcx_cpu_batch *batch);
CTCX_CPU_API const char *ctcx_cpu_check_align(const struct ctcx_cpu_batch *batch);

/* Since 1.3: losses, and for each frame the probability of each class given the labels, to
 * `class_occupancies`; and of each state, 2j the blank before label j and 2j + 1 label j, to
 * `state_occupancies`. The gradient is the softmax minus the former; `gradient` itself is ignored.
 *
 * - Occupancies are 0 in the frames past a sequence's length, and in the states past its labels.
 * - They are 0 where the loss is +inf, and NaN where it is NaN, in the frames of the sequence.
 *
 * Returns an enum ctcx_cpu_status. ctcx_cpu_check_occupancies says what is wrong with such a batch. */
CTCX_CPU_API int ctcx_cpu_occupancies(const struct ctcx_cpu_batch *batch);
CTCX_CPU_API const char *ctcx_cpu_check_occupancies(const struct ctcx_cpu_batch *batch);

/* Since 1.3: paths of each sequence, drawn by their probabilities given the labels, to `states`, as
 * those of ctcx_cpu_align. A path is drawn from its end. The number of the last frame picks between
 * the last label and the blank after it, that of an earlier frame between staying in the state of the
 * frame behind it, the state before, and the one two before, in this order: the first one whose
 * probability, added to those before it, is above the number.
 *
 * - A number that is out of range or NaN picks some state that a path can be in.
 * - Sequences that would have a loss of +inf or NaN have states of -1.
 *
 * Losses and gradient are ignored. ctcx_cpu_check_sample_paths says what is wrong with such a batch. */
CTCX_CPU_API int ctcx_cpu_sample_paths(const struct ctcx_cpu_batch *batch);
CTCX_CPU_API const char *ctcx_cpu_check_sample_paths(const struct ctcx_cpu_batch *batch);

/* Since 1.2: the class of each frame with the largest logit, the lowest of equal ones, to `decoded`,
 * and the logarithm of its probability, to `decoded_log_probs`; -1 and 0 past the length, -1 and -inf
 * where all logits of a frame are -inf. Labels, losses and gradient are ignored.
 *
 * A sequence with a length out of range, or a NaN or +inf logit in its frames, has -1 and NaN in all
 * T frames. ctcx_cpu_check_greedy says what is wrong with such a batch. */
CTCX_CPU_API int ctcx_cpu_greedy(const struct ctcx_cpu_batch *batch);
CTCX_CPU_API const char *ctcx_cpu_check_greedy(const struct ctcx_cpu_batch *batch);

/* Since 1.2: prefix beam search. After each frame the beam keeps the `width` most probable prefixes,
 * each of them once; their probabilities are those of the paths that came by prefixes in the beam.
 * The labels of the `top` best ones are written to `decoded`, packed to the left and padded with -1,
 * and the logarithms of their probabilities to `decoded_log_probs`: -inf where there are fewer.
 * Labels, losses and gradient are ignored.
 *
 * - Of equally probable prefixes, those that were in the beam before come first, in its order; then
 *   new ones: of a label more probable in that frame, of a lower label, of an earlier prefix.
 * - Prefixes of a probability of 0, or less than 2^-(2^32) of the best, are left out. A sequence without frames has the empty prefix,
 *   with 0.
 * - A sequence with a length out of range, or a NaN or +inf logit in its frames, has -1 and NaN.
 *
 * Memory grows with the width, the classes, and the labels of the prefixes in the beam.
 * ctcx_cpu_check_beam_search says what is wrong with such a batch. */
CTCX_CPU_API int ctcx_cpu_beam_search(const struct ctcx_cpu_batch *batch);
CTCX_CPU_API const char *ctcx_cpu_check_beam_search(const struct ctcx_cpu_batch *batch);

/* Since 1.4: the beam of a prefix search that prefers phrases, asks a language model, or goes on where
 * it stopped. It keeps, after each frame, the `width` prefixes with the largest sum of the logarithm of
 * their probability and their bonus, in this order; of equal ones, as ctcx_cpu_beam_search does.
 *
 * It begins with the empty prefix, or with entries that an earlier call has written: the frames may
 * come in chunks of any size, with exactly the results of all frames in one. The labels of all entries
 * are written to `decoded`, packed to the left and padded with -1, and to `result_numbers`
 *
 * - the logarithms of the probabilities of their paths that end in the blank, and
 * - in the last label: both -inf where there is no entry;
 * - the bonus so far, and
 * - what the bonus is if no frame follows; with it, the largest sum is the best result.
 *
 * The bonus of a prefix is the sum of `label_bonus` for each label; of `ngrams_weight` times the
 * logarithm of its probability by the model, to which the last number adds that of the end; and of the
 * weight of each label that stands in phrases, the largest where they overlap. The last labels, as far
 * as they begin phrases, have those weights at once; they lose them when the phrases break off, and in
 * the last number.
 *
 * A sequence with a length out of range, a NaN or +inf logit in its frames, or entries that can't be, has
 * -1 and NaN. `top` and `decoded_log_probs` are ignored, and so are labels, losses and gradient. Numbers
 * are in double for all types of logits. */
CTCX_CPU_API int ctcx_cpu_guided_search(const struct ctcx_cpu_batch *batch);
CTCX_CPU_API const char *ctcx_cpu_check_guided_search(const struct ctcx_cpu_batch *batch);

/* Since 1.4: phrases of `lengths` labels, which stand one after another in `labels`, and the weight of
 * each, in nats a label. Of equal phrases, the largest weight counts. NULL if a length is below 1, a
 * label below 0 or 2^31 - 1, a weight not finite, an array NULL, or if there is no memory. They remember
 * some of what searches find out about them, up to about 100 MB. ctcx_cpu_phrases_free takes NULL, too. */
CTCX_CPU_API struct ctcx_cpu_phrases *ctcx_cpu_phrases_new(const int32_t *labels, const int64_t *lengths,
                                                           const double *weights, int64_t count);
CTCX_CPU_API void ctcx_cpu_phrases_free(struct ctcx_cpu_phrases *phrases);

/* Since 1.4: an n-gram model with back-off. `count` n-grams of `sizes` words each, from 1 to `order`; the
 * words, which stand one after another in `grams`, are places in `words`, among which are "<s>", "</s>"
 * and "<unk>", and each has an n-gram of its own. Natural logarithms of their probability and, below
 * the order, of their back-off (0 for none).
 *
 * `tokens` are those of the classes. With a `separator` of -1 each is a word; else it is the class whose
 * token ends a word that other tokens spell. What is no word is "<unk>". NULL if anything of this is
 * not so, if an array is NULL, or if there is no memory. Probabilities that back-offs make larger than 1 count
 * as they are. */
CTCX_CPU_API struct ctcx_cpu_ngrams *ctcx_cpu_ngrams_new(const struct ctcx_cpu_strings *words,
                                                         const struct ctcx_cpu_strings *tokens, int64_t separator,
                                                         int32_t order, const int32_t *sizes, const int32_t *grams,
                                                         const double *log_probs, const double *back_offs,
                                                         int64_t count);
CTCX_CPU_API void ctcx_cpu_ngrams_free(struct ctcx_cpu_ngrams *ngrams);

/* The version of the library, as "1.5", and the instruction set that it runs: "baseline", "avx2",
 * "avx512" or "neon". The environment variable CTCX_CPU_INSTRUCTIONS, read at the first call, names
 * another one that the processor has. Any other name is ignored. */
CTCX_CPU_API const char *ctcx_cpu_version(void);
CTCX_CPU_API const char *ctcx_cpu_instructions(void);

/* XLA's foreign function interface: a handler (XLA_FFI_Handler) for the attributes int32 "blank"
 * and "threads" and, since 1.3, string "operation". Arguments are logits (..., T, C), labels (..., S),
 * logit lengths (...) and label lengths (...), without labels and their lengths for decoding; results
 * are those that the batch names for the operation, in the same order and of those shapes:
 *
 * - "loss", the default: losses and, unless the loss alone is wanted, gradient.
 * - "occupancies": losses, those of the classes and, if wanted, those of the states.
 * - "align": states and log_probs; a fifth argument is `extra` (..., T, W), and the attributes int32
 *   "first_blank" and "last_blank" are columns.
 * - "sample_paths": states; a fifth argument is the uniforms (..., K, T).
 * - "greedy": classes and log_probs.
 * - "beam_search": labels and log_probs; the attributes int32 "width", "top" and "max_classes".
 *
 * It uses the threads of XLA. */
CTCX_CPU_API void *ctcx_cpu_xla_handler(void);

#ifdef __cplusplus
}
#endif
#endif

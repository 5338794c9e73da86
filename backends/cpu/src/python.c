/* What Python calls: arrays by the buffer protocol, so that this works for every version of NumPy
 * and needs none to build. Only the stable ABI of Python 3.11 is used; CMake says to hold it to that. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#if !defined(_WIN32)
#include <pthread.h>
#endif

#include "ctcx_cpu.h"
#include "tensors.h"

/* The views of a call's arrays; those that have been taken are released together. */
enum { LOGITS, LABELS, LOGIT_LENGTHS, LABEL_LENGTHS, INPUTS };
enum { LOSSES = INPUTS, GRADIENT, WEIGHTS, OF_COMPUTE };  /* None where they aren't wanted */
enum { CLASSES = LOSSES + 1, OF_STATES, OF_OCCUPANCIES }; /* OF_STATES may be None */
enum { EXTRA = INPUTS, STATES, LOG_PROBS, OF_ALIGN };     /* EXTRA may be None */
enum { UNIFORMS = INPUTS, PATHS, OF_SAMPLES };
enum { LENGTHS = LOGITS + 1, DECODED, DECODED_LOG_PROBS, OF_DECODING };
enum { ENTRY_LABELS = LENGTHS + 1, ENTRY_NUMBERS, RESULT_LABELS, RESULT_NUMBERS, OF_GUIDED };

struct array {
  const char *name;
  int axes, is_written, may_be_none; /* axes: 0 if they depend on the operation */
};
static const struct array of_compute[] = {
    {"logits", 3, 0, 0},        {"labels", 2, 0, 0}, {"logit_lengths", 1, 0, 0},
    {"label_lengths", 1, 0, 0}, {"losses", 1, 1, 1}, {"gradient", 3, 1, 1},
    {"weights", 1, 0, 1}};
static const struct array of_occupancies[] = {
    {"logits", 3, 0, 0},        {"labels", 2, 0, 0}, {"logit_lengths", 1, 0, 0},
    {"label_lengths", 1, 0, 0}, {"losses", 1, 1, 0}, {"classes", 3, 1, 0},
    {"states", 3, 1, 1}};
static const struct array of_align[] = {
    {"logits", 3, 0, 0},        {"labels", 2, 0, 0}, {"logit_lengths", 1, 0, 0},
    {"label_lengths", 1, 0, 0}, {"extra", 3, 0, 1},  {"states", 2, 1, 0},
    {"log_probs", 2, 1, 0}};
static const struct array of_samples[] = {
    {"logits", 3, 0, 0},        {"labels", 2, 0, 0},   {"logit_lengths", 1, 0, 0},
    {"label_lengths", 1, 0, 0}, {"uniforms", 3, 0, 0}, {"states", 3, 1, 0}};
static const struct array of_decoding[] = {
    {"logits", 3, 0, 0}, {"logit_lengths", 1, 0, 0}, {"decoded", 0, 1, 0}, {"log_probs", 0, 1, 0}};

static const struct array of_guided[] = {
    {"logits", 3, 0, 0},        {"logit_lengths", 1, 0, 0}, {"entry_labels", 3, 0, 0},
    {"entry_numbers", 3, 0, 0}, {"labels", 3, 1, 0},        {"numbers", 3, 1, 0}};

static int take(PyObject *object, Py_buffer *view, const struct array *array) {
  int flags = PyBUF_STRIDES | (array->is_written ? PyBUF_WRITABLE : 0);
  if (PyObject_GetBuffer(object, view, flags) < 0) return -1;
  if (view->ndim == array->axes || array->axes == 0) return 0;
  PyErr_Format(PyExc_ValueError, "%s must have %d axes, not %d", array->name, array->axes,
               view->ndim);
  PyBuffer_Release(view);
  return -1;
}

/* Takes the arrays of a call, and says which are not None; returns how many were taken. */
static int take_all(PyObject *const *objects, Py_buffer *views, int *has, const struct array *arrays,
                    int count) {
  for (int taken = 0; taken < count; taken++) {
    has[taken] = objects[taken] != Py_None;
    if (has[taken] && take(objects[taken], &views[taken], &arrays[taken]) < 0) return taken;
    if (!has[taken] && !arrays[taken].may_be_none) {
      PyErr_Format(PyExc_TypeError, "%s must not be None", arrays[taken].name);
      return taken;
    }
  }
  return count;
}

static void release(Py_buffer *views, const int *has, int taken) {
  while (taken-- > 0)
    if (has[taken]) PyBuffer_Release(&views[taken]);
}

/* A stride in elements. NumPy may give any stride to an axis of length 1 or 0, and elements of no bytes. */
static int64_t stride(const Py_buffer *view, int axis, int *wrong) {
  if (view->shape[axis] < 2) return 0;
  if (view->itemsize == 0 || view->strides[axis] % view->itemsize) {
    *wrong = 1;
    return 0;
  }
  return view->strides[axis] / view->itemsize;
}

static struct ctcx_cpu_integers integers(const Py_buffer *view, int *wrong) {
  struct ctcx_cpu_integers array = {view->buf, (int32_t)view->itemsize, 0, stride(view, 0, wrong), 0};
  if (view->ndim > 1) array.position_stride = stride(view, 1, wrong);
  return array;
}

/* Whether rows of classes lie side by side, and elements are of the right size. */
static int are_rows(const Py_buffer *view, Py_ssize_t itemsize) {
  return view->itemsize == itemsize && (view->shape[2] < 2 || view->strides[2] == itemsize);
}

struct interpreter {
  PyThreadState *state;
};

/* Python's main thread, which alone handles signals: in a child the one that has forked it. */
static unsigned long main_thread;

static void become_main_thread(void) { main_thread = PyThread_get_thread_ident(); }

static int find_main_thread(PyObject *module) {
  (void)module;
  if (PyInterpreterState_GetID(PyInterpreterState_Get()) != 0) return 0; /* others handle no signals */
#if !defined(_WIN32)
  if (!main_thread) pthread_atfork(NULL, NULL, become_main_thread);
#endif
  PyObject *threading = PyImport_ImportModule("threading");
  PyObject *thread = threading ? PyObject_CallMethod(threading, "main_thread", NULL) : NULL;
  PyObject *ident = thread ? PyObject_GetAttrString(thread, "ident") : NULL;
  if (ident) main_thread = PyLong_AsUnsignedLong(ident);
  Py_XDECREF(threading), Py_XDECREF(thread), Py_XDECREF(ident);
  return PyErr_Occurred() ? -1 : 0;
}

/* Lets Python handle signals, such as Ctrl-C. Not from other threads: one that takes the lock while
 * the interpreter shuts down may not come back. */
static int signals(void *context) {
  struct interpreter *interpreter = context;
  PyEval_RestoreThread(interpreter->state);
  int raised = PyErr_CheckSignals() < 0;
  interpreter->state = PyEval_SaveThread();
  return raised;
}

static Py_ssize_t size_of_loss(const struct ctcx_cpu_batch *batch) {
  return batch->type == CTCX_CPU_FLOAT64 ? 8 : 4;
}

/* Describes logits and their lengths; returns whether anything is wrong. */
static int describe_logits(struct ctcx_cpu_batch *batch, const Py_buffer *logits, const Py_buffer *lengths) {
  static const Py_ssize_t sizes[] = {2, 2, 4, 8};
  int wrong = batch->type < 0 || batch->type > 3 || !are_rows(logits, sizes[batch->type]);
  if (lengths->shape[0] != logits->shape[0]) wrong = 1;
  batch->sequences = logits->shape[0];
  batch->frames = logits->shape[1];
  batch->classes = logits->shape[2];
  batch->logits = logits->buf;
  batch->logits_sequence_stride = stride(logits, 0, &wrong);
  batch->logits_frame_stride = stride(logits, 1, &wrong);
  batch->logit_lengths = integers(lengths, &wrong);
  return wrong;
}

/* Describes what is read; returns whether anything is wrong. */
static int describe_inputs(struct ctcx_cpu_batch *batch, const Py_buffer *views) {
  int wrong = describe_logits(batch, &views[LOGITS], &views[LOGIT_LENGTHS]);
  for (int which = LABELS; which < INPUTS; which++)
    if (views[which].shape[0] != views[LOGITS].shape[0]) wrong = 1;
  batch->label_positions = views[LABELS].shape[1];
  batch->labels = integers(&views[LABELS], &wrong);
  batch->label_lengths = integers(&views[LABEL_LENGTHS], &wrong);
  return wrong;
}

/* Whether an array is contiguous, of such a shape and elements. */
static int is_of(const Py_buffer *view, Py_ssize_t itemsize, int axes, const Py_ssize_t *shape) {
  int fits = view->itemsize == itemsize && view->ndim == axes && PyBuffer_IsContiguous(view, 'C');
  for (int axis = 0; fits && axis < axes; axis++) fits = view->shape[axis] == shape[axis];
  return fits;
}

/* Whether an array has the shape of the logits and rows of classes. */
static int is_like(const Py_buffer *view, const Py_buffer *logits, Py_ssize_t itemsize) {
  int fits = are_rows(view, itemsize);
  for (int axis = 0; axis < 3; axis++) fits = fits && view->shape[axis] == logits->shape[axis];
  return fits;
}

static int describe_compute(struct ctcx_cpu_batch *batch, const Py_buffer *views, const int *has) {
  const Py_buffer *logits = &views[LOGITS], *losses = &views[LOSSES], *gradient = &views[GRADIENT];
  int wrong = describe_inputs(batch, views);
  if (has[LOSSES]) {
    if (!is_of(losses, size_of_loss(batch), 1, logits->shape)) wrong = 1;
    batch->losses = losses->buf;
  }
  if (has[GRADIENT]) {
    if (!is_like(gradient, logits, logits->itemsize)) wrong = 1;
    batch->gradient = gradient->buf;
    batch->gradient_sequence_stride = stride(gradient, 0, &wrong);
    batch->gradient_frame_stride = stride(gradient, 1, &wrong);
  }
  if (has[WEIGHTS]) {
    if (!is_of(&views[WEIGHTS], size_of_loss(batch), 1, logits->shape)) wrong = 1;
    batch->gradient_weights = views[WEIGHTS].buf;
  }
  return wrong;
}

static int describe_occupancies(struct ctcx_cpu_batch *batch, const Py_buffer *views, const int *has) {
  const Py_buffer *logits = &views[LOGITS], *classes = &views[CLASSES];
  int wrong = describe_inputs(batch, views);
  const Py_ssize_t by_state[] = {batch->sequences, batch->frames, 2 * batch->label_positions + 1};
  if (!is_of(&views[LOSSES], size_of_loss(batch), 1, logits->shape) ||
      !is_like(classes, logits, size_of_loss(batch)) ||
      (has[OF_STATES] && !is_of(&views[OF_STATES], size_of_loss(batch), 3, by_state)))
    wrong = 1;
  batch->losses = views[LOSSES].buf;
  batch->class_occupancies = classes->buf;
  batch->class_occupancies_sequence_stride = stride(classes, 0, &wrong);
  batch->class_occupancies_frame_stride = stride(classes, 1, &wrong);
  if (has[OF_STATES]) batch->state_occupancies = views[OF_STATES].buf;
  return wrong;
}

static int describe_align(struct ctcx_cpu_batch *batch, const Py_buffer *views, const int *has) {
  const Py_buffer *logits = &views[LOGITS], *extra = &views[EXTRA];
  int wrong = describe_inputs(batch, views);
  if (!is_of(&views[STATES], 4, 2, logits->shape) ||
      !is_of(&views[LOG_PROBS], size_of_loss(batch), 2, logits->shape))
    wrong = 1;
  batch->states = views[STATES].buf;
  batch->log_probs = views[LOG_PROBS].buf;
  if (has[EXTRA]) {
    if (!are_rows(extra, size_of_loss(batch)) || extra->shape[0] != logits->shape[0] ||
        extra->shape[1] != logits->shape[1])
      wrong = 1;
    batch->extra = extra->buf;
    batch->extra_columns = extra->shape[2];
    batch->extra_sequence_stride = stride(extra, 0, &wrong);
    batch->extra_frame_stride = stride(extra, 1, &wrong);
  }
  return wrong;
}

static int describe_samples(struct ctcx_cpu_batch *batch, const Py_buffer *views) {
  const Py_buffer *uniforms = &views[UNIFORMS];
  int wrong = describe_inputs(batch, views);
  const Py_ssize_t shape[] = {batch->sequences, uniforms->shape[1], batch->frames};
  if (!is_of(uniforms, uniforms->itemsize, 3, shape) || !is_of(&views[PATHS], 4, 3, shape)) wrong = 1;
  batch->uniforms = uniforms->buf;
  batch->uniform_bytes = (int32_t)uniforms->itemsize;
  batch->paths = uniforms->shape[1];
  batch->states = views[PATHS].buf;
  return wrong;
}

/* The results are (N, T) and (N, T), or (N, top, T) and (N, top). */
static int describe_decoding(struct ctcx_cpu_batch *batch, const Py_buffer *views, int is_beam) {
  const Py_buffer *decoded = &views[DECODED], *log_probs = &views[DECODED_LOG_PROBS];
  int wrong = describe_logits(batch, &views[LOGITS], &views[LENGTHS]);
  const Py_ssize_t by_frame[] = {batch->sequences, batch->frames};
  const Py_ssize_t of_beam[] = {batch->sequences, batch->top, batch->frames};
  if (!is_of(decoded, 4, is_beam ? 3 : 2, is_beam ? of_beam : by_frame) ||
      !is_of(log_probs, size_of_loss(batch), 2, is_beam ? of_beam : by_frame))
    wrong = 1;
  batch->decoded = decoded->buf;
  batch->decoded_log_probs = log_probs->buf;
  return wrong;
}

static int describe_guided(struct ctcx_cpu_batch *batch, const Py_buffer *views) {
  const Py_buffer *entries = &views[ENTRY_LABELS];
  int wrong = describe_logits(batch, &views[LOGITS], &views[LENGTHS]);
  batch->width = entries->shape[1];
  batch->entry_positions = entries->shape[2];
  const Py_ssize_t rows = batch->sequences, width = batch->width, positions = batch->entry_positions;
  const Py_ssize_t before[] = {rows, width, positions}, after[] = {rows, width, positions + batch->frames};
  const Py_ssize_t three[] = {3, rows, width}, four[] = {4, rows, width};
  if (!is_of(entries, 4, 3, before) || !is_of(&views[ENTRY_NUMBERS], 8, 3, three) ||
      !is_of(&views[RESULT_LABELS], 4, 3, after) || !is_of(&views[RESULT_NUMBERS], 8, 3, four))
    wrong = 1;
  batch->entry_labels = entries->buf;
  batch->entry_numbers = views[ENTRY_NUMBERS].buf;
  batch->decoded = views[RESULT_LABELS].buf;
  batch->result_numbers = views[RESULT_NUMBERS].buf;
  return wrong;
}

/* Sets an error if the arrays are wrong, or a check says what is. */
static int refuse(int wrong, const char *fault) {
  if (wrong) fault = "the arrays don't fit together, or classes aren't side by side";
  if (fault) PyErr_SetString(PyExc_ValueError, fault);
  return fault != NULL;
}

static int32_t as_int32(PyObject *object) {
  long long value = PyLong_AsLongLong(object);
  return (int32_t)(value < 0 ? -1 : value > INT32_MAX ? INT32_MAX : value);
}

static struct ctcx_cpu_batch batch_of(PyObject *type, PyObject *blank, PyObject *threads,
                                      struct interpreter *interpreter) {
  struct ctcx_cpu_batch batch = {0};
  batch.size = sizeof batch;
  batch.major = CTCX_CPU_MAJOR;
  batch.type = as_int32(type);
  batch.blank = PyLong_AsLongLong(blank);
  batch.threads = as_int32(threads);
  if (PyThread_get_thread_ident() == main_thread) batch.interrupted = signals;
  batch.context = interpreter;
  return batch;
}

/* Calls the library without Python's lock; returns 0, or -1 with an error set. */
static int call(int (*function)(const struct ctcx_cpu_batch *), const struct ctcx_cpu_batch *batch) {
  struct interpreter *interpreter = batch->context;
  interpreter->state = PyEval_SaveThread();
  int status = function(batch);
  PyEval_RestoreThread(interpreter->state);
  if (status == CTCX_CPU_NO_MEMORY) PyErr_NoMemory();
  else if (status == CTCX_CPU_INVALID) PyErr_SetString(PyExc_ValueError, "the batch is invalid");
  else if (status == CTCX_CPU_INTERRUPTED && !PyErr_Occurred())  /* else a handler has set the error */
    PyErr_SetString(PyExc_RuntimeError, "a signal handler has forked the process, and the threads of this call aren't in the child; call again");
  return status == CTCX_CPU_OK ? 0 : -1;
}

/* compute(logits, labels, logit_lengths, label_lengths, losses, gradient, weights, type, blank, threads) */
static PyObject *compute(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  if (count != OF_COMPUTE + 3) {
    PyErr_SetString(PyExc_TypeError, "compute() takes 10 arguments");
    return NULL;
  }
  struct interpreter interpreter = {NULL};
  PyObject *const *numbers = args + OF_COMPUTE;
  struct ctcx_cpu_batch batch = batch_of(numbers[0], numbers[1], numbers[2], &interpreter);
  if (PyErr_Occurred()) return NULL;
  Py_buffer views[OF_COMPUTE];
  int has[OF_COMPUTE], status = -1;
  int taken = take_all(args, views, has, of_compute, OF_COMPUTE);
  if (taken == OF_COMPUTE) {
    batch.softmax_only = !has[LOSSES];
    int wrong = describe_compute(&batch, views, has);
    if (!refuse(wrong, ctcx_cpu_check(&batch))) status = call(ctcx_cpu_compute, &batch);
  }
  release(views, has, taken);
  if (status < 0) return NULL;
  Py_RETURN_NONE;
}

/* An array of a caller's, as it is: of the buffer protocol, or a tensor. `view` describes both. */
struct given {
  Py_buffer view;
  Py_ssize_t shape[3], strides[3]; /* of a tensor */
  int type;                        /* CTCX_CPU_FLOAT16 to CTCX_CPU_FLOAT64, or one of these: */
};
enum { INTEGERS = -1, OTHER = -2 };

/* The functions of a library whose tensors can be described at once; NULL for others and for buffers. */
static const struct dlpack_functions *functions_for(PyObject *object) {
  if (PyObject_CheckBuffer(object)) return NULL;
  PyObject *capsule = PyObject_GetAttrString((PyObject *)Py_TYPE(object), "__dlpack_c_exchange_api__");
  const struct dlpack_header *header = capsule ? PyCapsule_GetPointer(capsule, "dlpack_exchange_api") : NULL;
  Py_XDECREF(capsule); /* the type keeps it */
  PyErr_Clear();
  while (header && header->major > DLPACK_MAJOR) header = header->older;
  if (!header || header->major != DLPACK_MAJOR) return NULL;
  const struct dlpack_functions *functions = (const struct dlpack_functions *)header;
  return functions->describe ? functions : NULL;
}

/* The type of elements in this computer's order of bytes, by NumPy's letter for it. */
static int type_of(const char *format, Py_ssize_t bytes) {
  if (!format || !format[0] || format[1]) return OTHER;
  switch (format[0]) {
    case 'e': return CTCX_CPU_FLOAT16;
    case 'f': return CTCX_CPU_FLOAT32;
    case 'd': return CTCX_CPU_FLOAT64;
    case 'i': case 'l': case 'q': return bytes == 4 || bytes == 8 ? INTEGERS : OTHER;
    default: return OTHER;
  }
}

/* The same of a tensor. */
static int type_of_tensor(const struct dlpack_tensor *tensor) {
  if (tensor->element.lanes != 1) return OTHER;
  switch (tensor->element.code * 100 + tensor->element.bits) {
    case DLPACK_INT * 100 + 32: case DLPACK_INT * 100 + 64: return INTEGERS;
    case DLPACK_FLOAT * 100 + 16: return CTCX_CPU_FLOAT16;
    case DLPACK_BFLOAT * 100 + 16: return CTCX_CPU_BFLOAT16;
    case DLPACK_FLOAT * 100 + 32: return CTCX_CPU_FLOAT32;
    case DLPACK_FLOAT * 100 + 64: return CTCX_CPU_FLOAT64;
    default: return OTHER;
  }
}

/* A product that may wrap: an axis of length 1 or 0 may have any stride, an expanded one any length. */
static Py_ssize_t product(Py_ssize_t one, int64_t other) {
  return (Py_ssize_t)((size_t)one * (size_t)other);
}

static int describe_tensor(const struct dlpack_functions *functions, PyObject *object, struct given *given) {
  struct dlpack_tensor tensor;
  if (functions->describe(object, &tensor) < 0) return -1;
  if (tensor.device.type != DLPACK_CPU || tensor.axes > 3 || !tensor.strides) return -1;
  Py_buffer *view = &given->view;
  view->obj = NULL;
  view->buf = (char *)tensor.data + tensor.byte_offset;
  view->itemsize = tensor.element.bits / 8;
  view->ndim = tensor.axes;
  view->shape = given->shape, view->strides = given->strides;
  view->len = view->itemsize;
  view->suboffsets = NULL;
  for (int axis = 0; axis < tensor.axes; axis++) {
    view->shape[axis] = (Py_ssize_t)tensor.shape[axis];
    view->strides[axis] = product(view->itemsize, tensor.strides[axis]);
    view->len = product(view->len, tensor.shape[axis]);
  }
  given->type = type_of_tensor(&tensor);
  return tensor.data || view->len == 0 ? 0 : -1; /* else its memory was freed */
}

/* Describes an array that can be read, or written, as it is; -1 for any other. */
static int take_given(const struct dlpack_functions *functions, PyObject *object, struct given *given,
                      const struct array *array) {
  Py_buffer *view = &given->view;
  if (functions) {
    if (describe_tensor(functions, object, given) < 0) return -1;
  } else {
    int flags = PyBUF_STRIDES | PyBUF_FORMAT | (array->is_written ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, view, flags) < 0) return -1;
    given->type = type_of(view->format, view->itemsize);
  }
  uintptr_t bits = (uintptr_t)view->buf;
  int fits = view->ndim == array->axes && given->type != OTHER;
  for (int axis = 0; fits && axis < view->ndim; axis++) bits |= (uintptr_t)view->strides[axis];
  if (fits && bits % (uintptr_t)view->itemsize == 0) return 0;
  PyBuffer_Release(view);
  return -1;
}

/* Lets one number stand for the length of each sequence. */
static void repeat(struct given *given, const int64_t *length, Py_ssize_t sequences) {
  Py_buffer *view = &given->view;
  view->obj = NULL, view->buf = (void *)length, view->itemsize = sizeof *length, view->ndim = 1;
  view->shape = given->shape, view->strides = given->strides;
  view->shape[0] = sequences, view->strides[0] = 0;
  given->type = INTEGERS;
}

/* Takes the arrays of a shortcut, which are all of the type of the logits; returns how many were
 * taken, -1 - that number if one is unusual. */
static int take_all_given(PyObject *const *args, struct given *given, int *has, int64_t *whole) {
  const struct dlpack_functions *functions = functions_for(args[LOGITS]);
  for (int which = 0; which < OF_COMPUTE; which++) {
    const int is_length = which == LOGIT_LENGTHS || which == LABEL_LENGTHS;
    has[which] = args[which] != Py_None;
    if (!has[which] && is_length) {
      const struct given *of = &given[which == LOGIT_LENGTHS ? LOGITS : LABELS];
      int64_t *length = &whole[which == LABEL_LENGTHS];
      *length = of->view.shape[1];
      repeat(&given[which], length, given[LOGITS].view.shape[0]);
    }
    if (!has[which]) {
      if (is_length || of_compute[which].may_be_none) continue;
      return -1 - which;
    }
    if (Py_TYPE(args[which]) != Py_TYPE(args[LOGITS]) ||
        take_given(functions, args[which], &given[which], &of_compute[which]) < 0)
      return -1 - which;
  }
  return OF_COMPUTE;
}

/* Whether the types of the elements are those of a call: what is not integers has the type of the
 * logits, or that of the losses. */
static int have_types(const struct given *given, const int *has) {
  const int type = given[LOGITS].type;
  const int wide = type == CTCX_CPU_FLOAT64 ? CTCX_CPU_FLOAT64 : CTCX_CPU_FLOAT32;
  return has[LOSSES] && type >= 0 && given[LABELS].type == INTEGERS && given[LOGIT_LENGTHS].type == INTEGERS &&
         given[LABEL_LENGTHS].type == INTEGERS && given[LOSSES].type == wide &&
         (!has[GRADIENT] || given[GRADIENT].type == type) && (!has[WEIGHTS] || given[WEIGHTS].type == wide);
}

static int has_nan(const struct ctcx_cpu_batch *batch) {
  int found = 0;
  for (int64_t n = 0; n < batch->sequences; n++) {
    const double loss = batch->type == CTCX_CPU_FLOAT64 ? ((const double *)batch->losses)[n] : ((const float *)batch->losses)[n];
    found |= loss != loss;
  }
  return found;
}

/* shortcut(logits, labels, logit_lengths, label_lengths, losses, gradient, weights, blank, threads) -> bool
 *
 * Computes as compute() does, but only what is right in each detail, of arrays that are of the type
 * of the logits and can be read as they are; lengths may be None. Returns whether it has. */
static PyObject *shortcut(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  if (count != OF_COMPUTE + 2) {
    PyErr_SetString(PyExc_TypeError, "shortcut() takes 9 arguments");
    return NULL;
  }
  PyObject *blank = args[OF_COMPUTE];
  if (Py_TYPE(blank) != &PyLong_Type) Py_RETURN_FALSE;
  struct interpreter interpreter = {NULL};
  PyObject *threads = args[OF_COMPUTE + 1];
  struct ctcx_cpu_batch batch = batch_of(blank, blank, threads, &interpreter); /* its type comes below */
  if (PyErr_Occurred()) { /* a number that no class has */
    PyErr_Clear();
    Py_RETURN_FALSE;
  }
  struct given given[OF_COMPUTE];
  int has[OF_COMPUTE], done = 0;
  int64_t whole[2];
  int taken = take_all_given(args, given, has, whole);
  const int all = taken == OF_COMPUTE;
  if (!all) {
    PyErr_Clear();
    taken = -1 - taken;
  }
  if (all && have_types(given, has)) {
    Py_buffer views[OF_COMPUTE];
    for (int which = 0; which < OF_COMPUTE; which++) views[which] = given[which].view;
    batch.type = given[LOGITS].type;
    if (batch.blank < 0) batch.blank += views[LOGITS].shape[2];
    const int fits = !describe_compute(&batch, views, has) && !ctcx_cpu_check(&batch);
    if (fits && batch.sequences && batch.frames && batch.classes)
      done = call(ctcx_cpu_compute, &batch) < 0 ? -1 : !has_nan(&batch);
  }
  while (taken-- > 0)
    if (has[taken]) PyBuffer_Release(&given[taken].view);
  return done < 0 ? NULL : PyBool_FromLong(done);
}

/* occupancies(logits, labels, logit_lengths, label_lengths, losses, classes, states, type, blank, threads) */
static PyObject *occupancies(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  if (count != OF_OCCUPANCIES + 3) {
    PyErr_SetString(PyExc_TypeError, "occupancies() takes 10 arguments");
    return NULL;
  }
  struct interpreter interpreter = {NULL};
  PyObject *const *numbers = args + OF_OCCUPANCIES;
  struct ctcx_cpu_batch batch = batch_of(numbers[0], numbers[1], numbers[2], &interpreter);
  if (PyErr_Occurred()) return NULL;
  Py_buffer views[OF_OCCUPANCIES];
  int has[OF_OCCUPANCIES], status = -1;
  int taken = take_all(args, views, has, of_occupancies, OF_OCCUPANCIES);
  if (taken == OF_OCCUPANCIES) {
    int wrong = describe_occupancies(&batch, views, has);
    if (!refuse(wrong, ctcx_cpu_check_occupancies(&batch))) status = call(ctcx_cpu_occupancies, &batch);
  }
  release(views, has, taken);
  if (status < 0) return NULL;
  Py_RETURN_NONE;
}

/* align(logits, labels, logit_lengths, label_lengths, extra, states, log_probs, type, blank,
 *       first_blank, last_blank, threads) */
static PyObject *align(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  if (count != OF_ALIGN + 5) {
    PyErr_SetString(PyExc_TypeError, "align() takes 12 arguments");
    return NULL;
  }
  struct interpreter interpreter = {NULL};
  PyObject *const *numbers = args + OF_ALIGN;
  struct ctcx_cpu_batch batch = batch_of(numbers[0], numbers[1], numbers[4], &interpreter);
  batch.free_ends = 1;
  batch.first_blank = PyLong_AsLongLong(numbers[2]);
  batch.last_blank = PyLong_AsLongLong(numbers[3]);
  if (PyErr_Occurred()) return NULL;
  Py_buffer views[OF_ALIGN];
  int has[OF_ALIGN], status = -1;
  int taken = take_all(args, views, has, of_align, OF_ALIGN);
  if (taken == OF_ALIGN) {
    int wrong = describe_align(&batch, views, has);
    if (!refuse(wrong, ctcx_cpu_check_align(&batch))) status = call(ctcx_cpu_align, &batch);
  }
  release(views, has, taken);
  if (status < 0) return NULL;
  Py_RETURN_NONE;
}

/* sample_paths(logits, labels, logit_lengths, label_lengths, uniforms, states, type, blank, threads) */
static PyObject *sample_paths(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  if (count != OF_SAMPLES + 3) {
    PyErr_SetString(PyExc_TypeError, "sample_paths() takes 9 arguments");
    return NULL;
  }
  struct interpreter interpreter = {NULL};
  PyObject *const *numbers = args + OF_SAMPLES;
  struct ctcx_cpu_batch batch = batch_of(numbers[0], numbers[1], numbers[2], &interpreter);
  if (PyErr_Occurred()) return NULL;
  Py_buffer views[OF_SAMPLES];
  int has[OF_SAMPLES], status = -1;
  int taken = take_all(args, views, has, of_samples, OF_SAMPLES);
  if (taken == OF_SAMPLES) {
    int wrong = describe_samples(&batch, views);
    if (!refuse(wrong, ctcx_cpu_check_sample_paths(&batch))) status = call(ctcx_cpu_sample_paths, &batch);
  }
  release(views, has, taken);
  if (status < 0) return NULL;
  Py_RETURN_NONE;
}

static PyObject *decode(PyObject *const *args, struct ctcx_cpu_batch *batch, int is_beam) {
  if (PyErr_Occurred()) return NULL;
  Py_buffer views[OF_DECODING];
  int has[OF_DECODING], status = -1;
  int taken = take_all(args, views, has, of_decoding, OF_DECODING);
  if (taken == OF_DECODING) {
    int wrong = describe_decoding(batch, views, is_beam);
    const char *fault = is_beam ? ctcx_cpu_check_beam_search(batch) : ctcx_cpu_check_greedy(batch);
    if (!refuse(wrong, fault)) status = call(is_beam ? ctcx_cpu_beam_search : ctcx_cpu_greedy, batch);
  }
  release(views, has, taken);
  if (status < 0) return NULL;
  Py_RETURN_NONE;
}

/* greedy(logits, logit_lengths, classes, log_probs, type, blank, threads) */
static PyObject *greedy(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  if (count != OF_DECODING + 3) {
    PyErr_SetString(PyExc_TypeError, "greedy() takes 7 arguments");
    return NULL;
  }
  struct interpreter interpreter = {NULL};
  PyObject *const *numbers = args + OF_DECODING;
  struct ctcx_cpu_batch batch = batch_of(numbers[0], numbers[1], numbers[2], &interpreter);
  return decode(args, &batch, 0);
}

/* beam_search(logits, logit_lengths, labels, log_probs, type, blank, width, top, max_classes, threads) */
static PyObject *beam_search(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  if (count != OF_DECODING + 6) {
    PyErr_SetString(PyExc_TypeError, "beam_search() takes 10 arguments");
    return NULL;
  }
  struct interpreter interpreter = {NULL};
  PyObject *const *numbers = args + OF_DECODING;
  struct ctcx_cpu_batch batch = batch_of(numbers[0], numbers[1], numbers[5], &interpreter);
  batch.width = PyLong_AsLongLong(numbers[2]);
  batch.top = PyLong_AsLongLong(numbers[3]);
  batch.max_classes = PyLong_AsLongLong(numbers[4]);
  return decode(args, &batch, 1);
}

static const char phrases_name[] = "ctcx_cpu_phrases", ngrams_name[] = "ctcx_cpu_ngrams";

static void free_phrases(PyObject *capsule) { ctcx_cpu_phrases_free(PyCapsule_GetPointer(capsule, phrases_name)); }
static void free_ngrams(PyObject *capsule) { ctcx_cpu_ngrams_free(PyCapsule_GetPointer(capsule, ngrams_name)); }

/* What a capsule holds, NULL for None or with an error set. */
static void *held(PyObject *object, const char *name) {
  return object == Py_None ? NULL : PyCapsule_GetPointer(object, name);
}

/* Contiguous buffers of one axis and of such elements; returns how many were taken. */
static int take_vectors(PyObject *const *objects, Py_buffer *views, const Py_ssize_t *itemsizes, int count) {
  for (int taken = 0; taken < count; taken++) {
    if (PyObject_GetBuffer(objects[taken], &views[taken], PyBUF_C_CONTIGUOUS) < 0) return taken;
    if (views[taken].itemsize == itemsizes[taken]) continue;
    PyErr_Format(PyExc_ValueError, "argument %d has elements of %zd bytes, expected %zd", taken,
                 views[taken].itemsize, itemsizes[taken]);
    return taken + 1;
  }
  return count;
}

static int64_t size_of(const Py_buffer *view) { return view->len / view->itemsize; }

/* The sum of numbers, -1 if one is below 0 or it is above `most`. */
static int64_t sum_of(const void *numbers, int is_wide, int64_t count, int64_t most) {
  int64_t sum = 0;
  for (int64_t i = 0; i < count; i++) {
    const int64_t number = is_wide ? ((const int64_t *)numbers)[i] : ((const int32_t *)numbers)[i];
    if (number < 0 || number > most - sum) return -1;
    sum += number;
  }
  return sum;
}

static void release_vectors(Py_buffer *views, int taken) {
  while (taken-- > 0) PyBuffer_Release(&views[taken]);
}

/* phrases(labels, lengths, weights) */
static PyObject *phrases(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  enum { PHRASE_LABELS, PHRASE_LENGTHS, WEIGHTS, OF_PHRASES };
  static const Py_ssize_t itemsizes[] = {4, 8, 8};
  if (count != OF_PHRASES) {
    PyErr_SetString(PyExc_TypeError, "phrases() takes 3 arguments");
    return NULL;
  }
  Py_buffer views[OF_PHRASES];
  struct ctcx_cpu_phrases *made = NULL;
  int taken = take_vectors(args, views, itemsizes, OF_PHRASES);
  if (taken == OF_PHRASES && !PyErr_Occurred()) {
    const int64_t size = size_of(&views[WEIGHTS]), labels = size_of(&views[PHRASE_LABELS]);
    if (size_of(&views[PHRASE_LENGTHS]) == size && sum_of(views[PHRASE_LENGTHS].buf, 1, size, labels) == labels)
      made = ctcx_cpu_phrases_new(views[PHRASE_LABELS].buf, views[PHRASE_LENGTHS].buf, views[WEIGHTS].buf, size);
    if (!made) PyErr_SetString(PyExc_ValueError, "these are no phrases, or there is no memory");
  }
  release_vectors(views, taken);
  PyObject *capsule = made ? PyCapsule_New(made, phrases_name, free_phrases) : NULL;
  if (!capsule) ctcx_cpu_phrases_free(made);
  return capsule;
}

/* Texts of bytes, and where they end; returns whether anything is wrong. */
static int describe_strings(struct ctcx_cpu_strings *strings, const Py_buffer *text, const Py_buffer *ends) {
  strings->text = text->buf, strings->ends = ends->buf, strings->count = size_of(ends);
  int64_t last = 0;
  for (int64_t i = 0; i < strings->count; last = strings->ends[i++])
    if (strings->ends[i] < last || strings->ends[i] > text->len) return 1;
  return 0;
}

/* ngrams(words, word_ends, tokens, token_ends, sizes, grams, log_probs, back_offs, separator, order) */
static PyObject *ngrams(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  enum { WORDS, WORD_ENDS, TOKENS, TOKEN_ENDS, SIZES, GRAMS, GRAM_LOG_PROBS, BACK_OFFS, OF_NGRAMS };
  static const Py_ssize_t itemsizes[] = {1, 8, 1, 8, 4, 4, 8, 8};
  if (count != OF_NGRAMS + 2) {
    PyErr_SetString(PyExc_TypeError, "ngrams() takes 10 arguments");
    return NULL;
  }
  const int64_t separator = PyLong_AsLongLong(args[OF_NGRAMS]);
  const int32_t order = as_int32(args[OF_NGRAMS + 1]);
  if (PyErr_Occurred()) return NULL;
  Py_buffer views[OF_NGRAMS];
  struct ctcx_cpu_ngrams *made = NULL;
  int taken = take_vectors(args, views, itemsizes, OF_NGRAMS);
  if (taken == OF_NGRAMS && !PyErr_Occurred()) {
    struct ctcx_cpu_strings words, tokens;
    const int64_t size = size_of(&views[SIZES]), all = size_of(&views[GRAMS]);
    int wrong = describe_strings(&words, &views[WORDS], &views[WORD_ENDS]);
    wrong |= describe_strings(&tokens, &views[TOKENS], &views[TOKEN_ENDS]);
    wrong |= size_of(&views[GRAM_LOG_PROBS]) != size || size_of(&views[BACK_OFFS]) != size;
    if (!wrong && sum_of(views[SIZES].buf, 0, size, all) == all)
      made = ctcx_cpu_ngrams_new(&words, &tokens, separator, order, views[SIZES].buf, views[GRAMS].buf,
                                 views[GRAM_LOG_PROBS].buf, views[BACK_OFFS].buf, size);
    if (!made) PyErr_SetString(PyExc_ValueError, "this is no n-gram model, or there is no memory");
  }
  release_vectors(views, taken);
  PyObject *capsule = made ? PyCapsule_New(made, ngrams_name, free_ngrams) : NULL;
  if (!capsule) ctcx_cpu_ngrams_free(made);
  return capsule;
}

/* guided_search(logits, logit_lengths, entry_labels, entry_numbers, labels, numbers, type, blank,
 *               max_classes, phrases, ngrams, ngrams_weight, label_bonus, threads) */
static PyObject *guided_search(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  if (count != OF_GUIDED + 8) {
    PyErr_SetString(PyExc_TypeError, "guided_search() takes 14 arguments");
    return NULL;
  }
  struct interpreter interpreter = {NULL};
  PyObject *const *others = args + OF_GUIDED;
  struct ctcx_cpu_batch batch = batch_of(others[0], others[1], others[7], &interpreter);
  batch.max_classes = PyLong_AsLongLong(others[2]);
  batch.phrases = held(others[3], phrases_name);
  batch.ngrams = held(others[4], ngrams_name);
  batch.ngrams_weight = PyFloat_AsDouble(others[5]);
  batch.label_bonus = PyFloat_AsDouble(others[6]);
  if (PyErr_Occurred()) return NULL;
  Py_buffer views[OF_GUIDED];
  int has[OF_GUIDED], status = -1;
  int taken = take_all(args, views, has, of_guided, OF_GUIDED);
  if (taken == OF_GUIDED) {
    int wrong = describe_guided(&batch, views);
    if (!refuse(wrong, ctcx_cpu_check_guided_search(&batch))) status = call(ctcx_cpu_guided_search, &batch);
  }
  release(views, has, taken);
  if (status < 0) return NULL;
  Py_RETURN_NONE;
}

static PyObject *instructions(PyObject *module, PyObject *ignored) {
  (void)module, (void)ignored;
  return PyUnicode_FromString(ctcx_cpu_instructions());
}

static PyObject *version(PyObject *module, PyObject *ignored) {
  (void)module, (void)ignored;
  return PyUnicode_FromString(ctcx_cpu_version());
}

static PyObject *xla_handler(PyObject *module, PyObject *ignored) {
  (void)module, (void)ignored;
  return PyCapsule_New(ctcx_cpu_xla_handler(), "xla._CUSTOM_CALL_TARGET", NULL);
}

static PyMethodDef methods[] = {
    {"compute", (PyCFunction)(void (*)(void))compute, METH_FASTCALL,
     "compute(logits, labels, logit_lengths, label_lengths, losses, gradient, type, blank, threads)"},
    {"shortcut", (PyCFunction)(void (*)(void))shortcut, METH_FASTCALL,
     "shortcut(logits, labels, logit_lengths, label_lengths, losses, gradient, weights, blank, threads) -> bool"},
    {"occupancies", (PyCFunction)(void (*)(void))occupancies, METH_FASTCALL,
     "occupancies(logits, labels, logit_lengths, label_lengths, losses, classes, states, type, blank, threads)"},
    {"align", (PyCFunction)(void (*)(void))align, METH_FASTCALL,
     "align(logits, labels, logit_lengths, label_lengths, extra, states, log_probs, type, blank, "
     "first_blank, last_blank, threads)"},
    {"sample_paths", (PyCFunction)(void (*)(void))sample_paths, METH_FASTCALL,
     "sample_paths(logits, labels, logit_lengths, label_lengths, uniforms, states, type, blank, threads)"},
    {"greedy", (PyCFunction)(void (*)(void))greedy, METH_FASTCALL,
     "greedy(logits, logit_lengths, classes, log_probs, type, blank, threads)"},
    {"beam_search", (PyCFunction)(void (*)(void))beam_search, METH_FASTCALL,
     "beam_search(logits, logit_lengths, labels, log_probs, type, blank, width, top, max_classes, threads)"},
    {"guided_search", (PyCFunction)(void (*)(void))guided_search, METH_FASTCALL,
     "guided_search(logits, logit_lengths, entry_labels, entry_numbers, labels, numbers, type, blank, "
     "max_classes, phrases, ngrams, ngrams_weight, label_bonus, threads)"},
    {"phrases", (PyCFunction)(void (*)(void))phrases, METH_FASTCALL, "phrases(labels, lengths, weights) -> capsule"},
    {"ngrams", (PyCFunction)(void (*)(void))ngrams, METH_FASTCALL,
     "ngrams(words, word_ends, tokens, token_ends, sizes, grams, log_probs, back_offs, separator, order) -> capsule"},
    {"instructions", instructions, METH_NOARGS, "The instruction set that the kernels use."},
    {"version", version, METH_NOARGS, "The version of the C interface."},
    {"xla_handler", xla_handler, METH_NOARGS, "The handler for XLA, as a capsule."},
    {NULL, NULL, 0, NULL}};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, find_main_thread},
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL}};

static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", "The C interface of ctcx_cpu.", 0,
                                 methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }

/* What Python calls: arrays by the buffer protocol, so that this works for every version of NumPy
 * and needs none to build. Only the stable ABI of Python 3.11 is used; CMake says to hold it to that. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "ctcx_cpu.h"

/* The views of a call's arrays; those that have been taken are released together. */
enum { LOGITS, LABELS, LOGIT_LENGTHS, LABEL_LENGTHS, LOSSES, GRADIENT, COUNT };
static const char *const names[COUNT] = {"logits", "labels", "logit_lengths", "label_lengths",
                                         "losses", "gradient"};
static const int axes[COUNT] = {3, 2, 1, 1, 1, 3};

static int take(PyObject *object, Py_buffer *view, int which) {
  int flags = PyBUF_STRIDES | (which >= LOSSES ? PyBUF_WRITABLE : 0);
  if (PyObject_GetBuffer(object, view, flags) < 0) return -1;
  if (view->ndim == axes[which]) return 0;
  PyErr_Format(PyExc_ValueError, "%s must have %d axes, not %d", names[which], axes[which],
               view->ndim);
  PyBuffer_Release(view);
  return -1;
}

/* A stride in elements. NumPy may give any stride to an axis of length 1 or 0. */
static int64_t stride(const Py_buffer *view, int axis, int *wrong) {
  if (view->shape[axis] < 2) return 0;
  if (view->strides[axis] % view->itemsize) *wrong = 1;
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

/* Lets Python handle signals, such as Ctrl-C. */
static int signals(void *context) {
  struct interpreter *interpreter = context;
  PyEval_RestoreThread(interpreter->state);
  int raised = PyErr_CheckSignals() < 0;
  interpreter->state = PyEval_SaveThread();
  return raised;
}

static int describe(struct ctcx_cpu_batch *batch, const Py_buffer *views, int has_losses,
                    int has_gradient) {
  static const Py_ssize_t sizes[] = {2, 2, 4, 8};
  const Py_buffer *logits = &views[LOGITS], *gradient = &views[GRADIENT];
  int wrong = 0;
  if (batch->type < 0 || batch->type > 3) wrong = 1;
  else if (!are_rows(logits, sizes[batch->type])) wrong = 1;
  else if (has_gradient && !are_rows(gradient, sizes[batch->type])) wrong = 1;
  for (int axis = 0; axis < 3 && has_gradient; axis++)
    if (gradient->shape[axis] != logits->shape[axis]) wrong = 1;
  for (int which = LABELS; which <= LOSSES; which++)
    if ((which < LOSSES || has_losses) && views[which].shape[0] != logits->shape[0]) wrong = 1;
  if (has_losses && (views[LOSSES].itemsize != (batch->type == CTCX_CPU_FLOAT64 ? 8 : 4) ||
                     (logits->shape[0] > 1 && views[LOSSES].strides[0] != views[LOSSES].itemsize)))
    wrong = 1;
  batch->sequences = logits->shape[0];
  batch->frames = logits->shape[1];
  batch->classes = logits->shape[2];
  batch->label_positions = views[LABELS].shape[1];
  batch->logits = logits->buf;
  batch->logits_sequence_stride = stride(logits, 0, &wrong);
  batch->logits_frame_stride = stride(logits, 1, &wrong);
  batch->labels = integers(&views[LABELS], &wrong);
  batch->logit_lengths = integers(&views[LOGIT_LENGTHS], &wrong);
  batch->label_lengths = integers(&views[LABEL_LENGTHS], &wrong);
  if (has_losses) batch->losses = views[LOSSES].buf;
  if (has_gradient) {
    batch->gradient = gradient->buf;
    batch->gradient_sequence_stride = stride(gradient, 0, &wrong);
    batch->gradient_frame_stride = stride(gradient, 1, &wrong);
  }
  if (wrong) {
    PyErr_SetString(PyExc_ValueError, "the arrays don't fit together, or classes aren't side by side");
    return -1;
  }
  const char *fault = ctcx_cpu_check(batch);
  if (fault) PyErr_SetString(PyExc_ValueError, fault);
  return fault ? -1 : 0;
}

/* compute(logits, labels, logit_lengths, label_lengths, losses, gradient, type, blank, threads) */
static PyObject *compute(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  if (count != COUNT + 3) {
    PyErr_SetString(PyExc_TypeError, "compute() takes 9 arguments");
    return NULL;
  }
  struct interpreter interpreter = {NULL};
  struct ctcx_cpu_batch batch = {0};
  batch.size = sizeof batch;
  batch.major = CTCX_CPU_MAJOR;
  long long type = PyLong_AsLongLong(args[COUNT]);
  long long blank = PyLong_AsLongLong(args[COUNT + 1]);
  long long threads = PyLong_AsLongLong(args[COUNT + 2]);
  if (PyErr_Occurred()) return NULL;
  batch.type = (int32_t)type;
  batch.blank = blank;
  batch.threads = (int32_t)(threads < 0 ? -1 : threads > INT32_MAX ? INT32_MAX : threads);
  batch.interrupted = signals;
  batch.context = &interpreter;

  Py_buffer views[COUNT];
  int taken = 0, has[COUNT], status = -1;
  for (; taken < COUNT; taken++) {
    has[taken] = args[taken] != Py_None;
    if (has[taken] && take(args[taken], &views[taken], taken) < 0) break;
    if (!has[taken] && taken < LOSSES) {
      PyErr_Format(PyExc_TypeError, "%s must not be None", names[taken]);
      break;
    }
  }
  batch.softmax_only = taken == COUNT && !has[LOSSES];
  if (taken == COUNT && describe(&batch, views, has[LOSSES], has[GRADIENT]) == 0) {
    interpreter.state = PyEval_SaveThread();
    status = ctcx_cpu_compute(&batch);
    PyEval_RestoreThread(interpreter.state);
    if (status == CTCX_CPU_NO_MEMORY) PyErr_NoMemory();
    else if (status == CTCX_CPU_INVALID) PyErr_SetString(PyExc_ValueError, "the batch is invalid");
  }
  while (taken-- > 0)
    if (has[taken]) PyBuffer_Release(&views[taken]);
  if (status != CTCX_CPU_OK) return NULL;
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
    {"instructions", instructions, METH_NOARGS, "The instruction set that the kernels use."},
    {"version", version, METH_NOARGS, "The version of the C interface."},
    {"xla_handler", xla_handler, METH_NOARGS, "The handler for XLA, as a capsule."},
    {NULL, NULL, 0, NULL}};

static PyModuleDef_Slot slots[] = {
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL}};

static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", "The C interface of ctcx_cpu.", 0,
                                 methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }

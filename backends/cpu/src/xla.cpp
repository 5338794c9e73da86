// The handler that XLA calls in a program of JAX's.
#include <memory>
#include <stdexcept>
#include <string_view>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "batch.h"
#include "xla_interface.h"

namespace {

using ctcx::Size;

struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

const xla::Buffer &buffer(const xla::Buffers &buffers, std::int64_t which) {
  if (which >= buffers.count) throw Refused("ctcx_cpu: too few arguments or results");
  return *buffers.buffers[which];
}

// The value of an attribute, or null if there is none of that name and kind.
const void *find(const xla::Attributes &attributes, std::string_view name, int kind) {
  for (std::int64_t i = 0; i < attributes.count; i++)
    if (std::string_view(attributes.names[i]->text, attributes.names[i]->length) == name &&
        attributes.kinds[i] == kind)
      return attributes.values[i];
  return nullptr;
}

std::int32_t number(const xla::CallFrame &frame, std::string_view name) {
  const auto *scalar = static_cast<const xla::Scalar *>(find(frame.attributes, name, xla::scalar_attribute));
  if (!scalar || scalar->type != xla::DataType::s32)
    throw Refused("ctcx_cpu: an attribute is missing or not of type int32");
  return *static_cast<const std::int32_t *>(scalar->value);
}

const ctcx::Operation &operation_of(const xla::CallFrame &frame) {
  const auto *name = static_cast<const xla::Name *>(find(frame.attributes, "operation", xla::string_attribute));
  const auto *operation = ctcx::operation_of(name ? std::string_view(name->text, name->length) : "loss");
  if (!operation) throw Refused("ctcx_cpu: there is no such operation");
  return *operation;
}

int type_of(const xla::Buffer &logits) {
  switch (logits.type) {
    case xla::DataType::f16: return CTCX_CPU_FLOAT16;
    case xla::DataType::bf16: return CTCX_CPU_BFLOAT16;
    case xla::DataType::f32: return CTCX_CPU_FLOAT32;
    case xla::DataType::f64: return CTCX_CPU_FLOAT64;
    default: throw Refused("ctcx_cpu: logits must be floating-point numbers");
  }
}

// Arrays of XLA's are contiguous. All axes before the last `own` ones are sequences.
Size sequences_of(const xla::Buffer &array, std::int64_t own) {
  if (array.rank < own) throw Refused("ctcx_cpu: an array has too few axes");
  Size count = 1;
  for (std::int64_t axis = 0; axis < array.rank - own; axis++) count *= array.lengths[axis];
  return count;
}

ctcx_cpu_integers integers(const xla::Buffer &array, Size sequences, bool has_positions) {
  if (array.type != xla::DataType::s32 && array.type != xla::DataType::s64)
    throw Refused("ctcx_cpu: labels and lengths must be int32 or int64");
  if (sequences_of(array, has_positions) != sequences)
    throw Refused("ctcx_cpu: logits, labels and lengths are of different numbers of sequences");
  const Size stride = has_positions ? array.lengths[array.rank - 1] : 1;
  return {array.data, array.type == xla::DataType::s32 ? 4 : 8, 0, stride, 1};
}

Size bytes_of(xla::DataType type) {
  switch (type) {
    case xla::DataType::f16: case xla::DataType::bf16: return 2;
    case xla::DataType::s64: case xla::DataType::f64: return 8;
    default: return 4;
  }
}

// Asks the system for huge pages where the memory of a result is fresh: XLA has it mapped anew for
// each run of a program if it is large, and page by page that takes longer than computing.
void ask_for_huge_pages(void *start, Size bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t huge_page = 1 << 21;
  constexpr Size always_fresh = Size{1} << 25;  // what the allocator of glibc maps, whatever was freed
  if (bytes < always_fresh) return;
  const auto first = reinterpret_cast<std::uintptr_t>(start);
  const std::uintptr_t from = (first + huge_page - 1) & -huge_page, to = (first + bytes) & -huge_page;
  madvise(reinterpret_cast<void *>(from), to - from, MADV_HUGEPAGE);  // without them: slower, not wrong
#else
  static_cast<void>(start), static_cast<void>(bytes);
#endif
}

struct Call {
  const xla::CallFrame &frame;
  const xla::Buffer &logits;
  ctcx_cpu_batch batch;

  xla::DataType loss_type() const {
    return batch.type == CTCX_CPU_FLOAT64 ? xla::DataType::f64 : xla::DataType::f32;
  }
  // A result of so many numbers.
  template <class U = void> U *result(std::int64_t which, Size count, xla::DataType type) const {
    const xla::Buffer &array = buffer(frame.results, which);
    if (array.type != type || sequences_of(array, 0) != count)
      throw Refused("ctcx_cpu: a result is of another shape or type");
    ask_for_huge_pages(array.data, count * bytes_of(type));
    return static_cast<U *>(array.data);
  }
  // An argument beside those that all operations have: (..., rows, columns).
  const xla::Buffer &argument(std::int64_t which) const {
    const xla::Buffer &array = buffer(frame.arguments, which);
    if (sequences_of(array, 2) != batch.sequences)
      throw Refused("ctcx_cpu: the arguments are of different numbers of sequences");
    return array;
  }
};

// What each operation reads more, and what it writes.
void describe(Call &call, std::string_view operation) {
  ctcx_cpu_batch &batch = call.batch;
  const xla::DataType type = call.loss_type(), int32 = xla::DataType::s32;
  const Size by_frame = batch.sequences * batch.frames, by_class = by_frame * batch.classes;
  if (operation == "loss") {
    batch.losses = call.result(0, batch.sequences, type);
    if (call.frame.results.count > 1) batch.gradient = call.result(1, by_class, call.logits.type);
    batch.gradient_sequence_stride = batch.logits_sequence_stride;
    batch.gradient_frame_stride = batch.logits_frame_stride;
  } else if (operation == "occupancies") {
    batch.losses = call.result(0, batch.sequences, type);
    batch.class_occupancies = call.result(1, by_class, type);
    batch.class_occupancies_sequence_stride = batch.logits_sequence_stride;
    batch.class_occupancies_frame_stride = batch.logits_frame_stride;
    if (call.frame.results.count > 2)
      batch.state_occupancies = call.result(2, by_frame * (2 * batch.label_positions + 1), type);
  } else if (operation == "align") {
    if (call.frame.arguments.count > 4) {
      const xla::Buffer &extra = call.argument(4);
      if (extra.type != type || extra.lengths[extra.rank - 2] != batch.frames)
        throw Refused("ctcx_cpu: the columns are of another number of frames or type");
      batch.extra = extra.data, batch.extra_columns = extra.lengths[extra.rank - 1];
      batch.extra_frame_stride = batch.extra_columns;
      batch.extra_sequence_stride = batch.frames * batch.extra_columns;
    }
    batch.free_ends = 1;
    batch.first_blank = number(call.frame, "first_blank"), batch.last_blank = number(call.frame, "last_blank");
    batch.states = call.result<std::int32_t>(0, by_frame, int32);
    batch.log_probs = call.result(1, by_frame, type);
  } else if (operation == "sample_paths") {
    const xla::Buffer &uniforms = call.argument(4);
    const bool is_double = uniforms.type == xla::DataType::f64;
    if ((!is_double && uniforms.type != xla::DataType::f32) || uniforms.lengths[uniforms.rank - 1] != batch.frames)
      throw Refused("ctcx_cpu: the uniforms are of another number of frames or type");
    batch.uniforms = uniforms.data, batch.uniform_bytes = is_double ? 8 : 4;
    batch.paths = uniforms.lengths[uniforms.rank - 2];
    batch.states = call.result<std::int32_t>(0, batch.paths * by_frame, int32);
  } else if (operation == "greedy") {
    batch.decoded = call.result<std::int32_t>(0, by_frame, int32);
    batch.decoded_log_probs = call.result(1, by_frame, type);
  } else {
    batch.width = number(call.frame, "width"), batch.top = number(call.frame, "top");
    batch.max_classes = number(call.frame, "max_classes");
    batch.decoded = call.result<std::int32_t>(0, batch.top * by_frame, int32);
    batch.decoded_log_probs = call.result(1, batch.top * batch.sequences, type);
  }
}

void compute(const xla::CallFrame &frame) {
  const ctcx::Operation &operation = operation_of(frame);
  const xla::Buffer &logits = buffer(frame.arguments, 0);
  Call call{frame, logits, {}};
  ctcx_cpu_batch &batch = call.batch;
  batch.size = sizeof batch, batch.major = CTCX_CPU_MAJOR, batch.type = type_of(logits);
  batch.sequences = sequences_of(logits, 2);
  batch.frames = logits.lengths[logits.rank - 2], batch.classes = logits.lengths[logits.rank - 1];
  batch.blank = number(frame, "blank");
  batch.threads = number(frame, "threads");
  batch.logits = logits.data;
  batch.logits_frame_stride = batch.classes;
  batch.logits_sequence_stride = batch.frames * batch.classes;
  std::int64_t lengths = 1;
  if (operation.has_labels) {
    const xla::Buffer &labels = buffer(frame.arguments, 1);
    batch.labels = integers(labels, batch.sequences, true);
    batch.label_positions = labels.lengths[labels.rank - 1];
    batch.label_lengths = integers(buffer(frame.arguments, 3), batch.sequences, false);
    lengths = 2;
  }
  batch.logit_lengths = integers(buffer(frame.arguments, lengths), batch.sequences, false);
  describe(call, operation.name);
  if (const char *wrong = operation.check(&batch)) throw Refused(wrong);

  ctcx::Team team{batch.threads > 0 ? batch.threads : ctcx::usable_cores(), {}, {}};
  using Visit = std::weak_ptr<ctcx::Work>;
  team.recruit = [&frame](int helpers, const Visit &work) {
    for (int i = 0; i < helpers; i++) {
      auto task = std::make_unique<Visit>(work);
      xla::Schedule request{sizeof request, nullptr, frame.context,
                            [](void *data) { ctcx::help(*std::unique_ptr<Visit>(static_cast<Visit *>(data))); },
                            task.get()};
      if (xla::Error *error = frame.interface->schedule(&request)) {  // XLA has no threads to lend
        xla::DestroyError destroy{sizeof destroy, nullptr, error};
        frame.interface->destroy_error(&destroy);
        return;
      }
      static_cast<void>(task.release());  // the task owns it now
    }
  };
  const ctcx::UsualArithmetic arithmetic;
  operation.compute(batch, team);
}

xla::Error *handle(xla::CallFrame *frame) {
  for (xla::Extension *e = frame->extension; e; e = e->next)
    if (e->type == xla::metadata_extension) {  // XLA asks which version the handler is written for
      xla::Metadata *metadata = reinterpret_cast<xla::MetadataExtension *>(e)->metadata;
      metadata->version.major = xla::major, metadata->version.minor = xla::minor;
      metadata->traits = 0;
      return nullptr;
    }
  auto failed = [frame](int code, const char *message) {
    xla::CreateError create{sizeof create, nullptr, message, code};
    return frame->interface->create_error(&create);
  };
  const xla::Version &version = frame->interface->version;
  if (version.major != xla::major || version.minor < xla::minor ||
      frame->size < sizeof(xla::CallFrame) || frame->interface->size < xla::least_interface_size)
    return failed(xla::internal_error, "ctcx_cpu: this version of XLA has another interface");
  try {
    compute(*frame);
  } catch (const std::bad_alloc &) {
    return failed(xla::resource_exhausted, "ctcx_cpu: scratch memory could not be allocated");
  } catch (const std::exception &error) {
    return failed(xla::invalid_argument, error.what());
  } catch (const ctcx::Interrupted &) {
    return failed(xla::internal_error, "ctcx_cpu: the process was forked, and the threads of this call aren't in the child");
  }
  return nullptr;
}

}  // namespace

extern "C" void *ctcx_cpu_xla_handler(void) { return reinterpret_cast<void *>(handle); }

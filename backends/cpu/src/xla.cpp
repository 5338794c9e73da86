// The handler that XLA calls in a program of JAX's.
#include <memory>
#include <optional>
#include <stdexcept>
#include <string_view>

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

std::int32_t attribute(const xla::Attributes &attributes, std::string_view name) {
  for (std::int64_t i = 0; i < attributes.count; i++)
    if (std::string_view(attributes.names[i]->text, attributes.names[i]->length) == name &&
        attributes.kinds[i] == xla::scalar_attribute &&
        attributes.values[i]->type == xla::DataType::s32)
      return *static_cast<std::int32_t *>(attributes.values[i]->value);
  throw Refused("ctcx_cpu: an attribute is missing or not of type int32");
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

void compute(const xla::CallFrame &frame) {
  const xla::Buffer &logits = buffer(frame.arguments, 0), &labels = buffer(frame.arguments, 1);
  ctcx_cpu_batch call{};
  call.size = sizeof call, call.major = CTCX_CPU_MAJOR, call.type = type_of(logits);
  call.sequences = sequences_of(logits, 2);
  call.frames = logits.lengths[logits.rank - 2], call.classes = logits.lengths[logits.rank - 1];
  call.blank = attribute(frame.attributes, "blank");
  call.threads = attribute(frame.attributes, "threads");
  call.logits = logits.data;
  call.logits_frame_stride = call.classes;
  call.logits_sequence_stride = call.frames * call.classes;
  call.labels = integers(labels, call.sequences, true);
  call.label_positions = labels.lengths[labels.rank - 1];
  call.logit_lengths = integers(buffer(frame.arguments, 2), call.sequences, false);
  call.label_lengths = integers(buffer(frame.arguments, 3), call.sequences, false);
  const xla::Buffer &losses = buffer(frame.results, 0);
  if (sequences_of(losses, 0) != call.sequences ||
      (losses.type == xla::DataType::f64) != (call.type == CTCX_CPU_FLOAT64))
    throw Refused("ctcx_cpu: the losses are of another shape or type");
  call.losses = losses.data;
  if (frame.results.count > 1) {
    const xla::Buffer &gradient = buffer(frame.results, 1);
    if (gradient.type != logits.type || sequences_of(gradient, 0) != sequences_of(logits, 0))
      throw Refused("ctcx_cpu: the gradient is of another shape or type than the logits");
    call.gradient = gradient.data;
    call.gradient_frame_stride = call.logits_frame_stride;
    call.gradient_sequence_stride = call.logits_sequence_stride;
  }
  if (const char *wrong = ctcx_cpu_check(&call)) throw Refused(wrong);

  ctcx::Team team{call.threads > 0 ? call.threads : ctcx::usable_cores(), {}, {}};
  team.recruit = [&frame](int helpers, const std::function<void()> &visit) {
    for (int i = 0; i < helpers; i++) {
      auto task = std::make_unique<std::function<void()>>(visit);
      xla::Schedule request{sizeof request, nullptr, frame.context,
                            [](void *data) {
                              std::unique_ptr<std::function<void()>> visit(
                                  static_cast<std::function<void()> *>(data));
                              (*visit)();
                            },
                            task.get()};
      if (xla::Error *error = frame.interface->schedule(&request)) {  // XLA has no threads to lend
        xla::DestroyError destroy{sizeof destroy, nullptr, error};
        frame.interface->destroy_error(&destroy);
        return;
      }
      static_cast<void>(task.release());  // the task owns it now
    }
  };
  ctcx::compute(ctcx::read(call), team);
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
  }
  return nullptr;
}

}  // namespace

extern "C" void *ctcx_cpu_xla_handler(void) { return reinterpret_cast<void *>(handle); }

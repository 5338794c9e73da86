// The part of XLA's foreign function interface that the handler needs: its stable C interface,
// declared here so that a build needs no headers of XLA's and one library works with every version.
// Later minor versions only add to the ends of these structs.
#pragma once
#include <cstddef>
#include <cstdint>

namespace xla {

constexpr int major = 0, minor = 1;  // the version that is needed at least

struct Extension {
  std::size_t size;
  int type;
  Extension *next;
};
constexpr int metadata_extension = 1;

struct Version {
  std::size_t size;
  Extension *extension;
  int major, minor;
};
struct Metadata {
  std::size_t size;
  Version version;
  std::uint32_t traits;
};
struct MetadataExtension {
  Extension base;
  Metadata *metadata;
};

enum class DataType : int { s32 = 4, s64 = 5, f16 = 10, f32 = 11, f64 = 12, bf16 = 16 };

struct Buffer {
  std::size_t size;
  Extension *extension;
  DataType type;
  void *data;
  std::int64_t rank;
  std::int64_t *lengths;
};
struct Buffers {  // arguments or results
  std::size_t size;
  Extension *extension;
  std::int64_t count;
  int *kinds;
  Buffer **buffers;
};
struct Name {
  const char *text;
  std::size_t length;
};
struct Scalar {
  DataType type;
  void *value;
};
struct Attributes {
  std::size_t size;
  Extension *extension;
  std::int64_t count;
  int *kinds;
  Name **names;
  void **values;  // Scalar or Name, by their kinds
};
constexpr int scalar_attribute = 3, string_attribute = 4;

struct Context;
struct Error;
struct CreateError {
  std::size_t size;
  Extension *extension;
  const char *message;
  int code;
};
constexpr int invalid_argument = 3, resource_exhausted = 8, internal_error = 13;
struct DestroyError {
  std::size_t size;
  Extension *extension;
  Error *error;
};
struct Schedule {
  std::size_t size;
  Extension *extension;
  Context *context;
  void (*task)(void *);
  void *data;
};
struct Interface {
  std::size_t size;
  Extension *extension;
  Version version;
  void *internal;
  Error *(*create_error)(CreateError *);
  void *get_message;
  void (*destroy_error)(DestroyError *);
  void *between[8];  // of no use here
  Error *(*schedule)(Schedule *);
};
// JAX 0.5 gives the size up to the second of those in between, but has `schedule` too: all of
// version 0.1 have.
constexpr std::size_t least_interface_size = offsetof(Interface, between) + 2 * sizeof(void *);

struct CallFrame {
  std::size_t size;
  Extension *extension;
  const Interface *interface;
  Context *context;
  int stage;
  Buffers arguments, results;
  Attributes attributes;
};

}  // namespace xla

/* The part of DLPack's exchange interface that reads tensors, declared here so that a build needs no
 * headers of others. A library lends a table of functions as `__dlpack_c_exchange_api__` of the type. */
#pragma once
#include <stdint.h>

enum { DLPACK_MAJOR = 1, DLPACK_CPU = 1 };
enum { DLPACK_INT = 0, DLPACK_FLOAT = 2, DLPACK_BFLOAT = 4 };

struct dlpack_tensor {
  void *data;
  struct {
    int32_t type, number;
  } device;
  int32_t axes;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } element;
  int64_t *shape, *strides; /* in elements */
  uint64_t byte_offset;
};

struct dlpack_header {
  uint32_t major, minor;
  const struct dlpack_header *older; /* NULL, or the header of a table of an older version */
};

struct dlpack_functions {
  struct dlpack_header header;
  void (*allocate)(void), (*lend)(void), (*wrap)(void); /* not called here */
  int (*describe)(void *object, struct dlpack_tensor *tensor); /* NULL, or returns 0, or -1 with an error set */
};

// The CUDA runtime that CuPy calls, as public headers declare it.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "device.h"

namespace coc {

Device& device() {
  static Device state = [] {
    Device made;
    if (const char* value = getenv("CUDA_ON_CPU_ARCH")) made.architecture = atoi(value);
    return made;
  }();
  return state;
}

cudaError_t failed(cudaError_t error, const std::string& what) {
  device().last_failure = what;
  fprintf(stderr, "cuda_on_cpu: %s\n", what.c_str());
  return error;
}

// From the table "Technical Specifications per Compute Capability" of the CUDA C++ programming guide.
Limits limits() {
  switch (device().architecture) {
    case 75: return {49152, 64 << 10, 64 << 10, 1024};
    case 80: return {49152, 163 << 10, 164 << 10, 2048};
    case 86: return {49152, 99 << 10, 100 << 10, 1536};
    case 120: return {49152, 99 << 10, 100 << 10, 1536};
    default: return {49152, 227 << 10, 228 << 10, 2048};
  }
}

namespace {

constexpr int kVersion = 13020;
constexpr int kProcessors = 4;

cudaError_t synchronise(const char* what) {
  if (cudaError_t error = forbid_in_capture(what)) return error;
  ++device().counters.synchronisations;
  return cudaSuccess;
}

void count_copy(void* to, const void* from, cudaMemcpyKind kind) {
  bool to_device = kind == cudaMemcpyDefault ? find_block(to) != nullptr
                                             : kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  bool from_device = kind == cudaMemcpyDefault ? find_block(from) != nullptr
                                               : kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  Counters& counters = device().counters;
  if (from_device && !to_device) ++counters.device_to_host;
  if (!from_device && to_device) ++counters.host_to_device;
  if (from_device && to_device) ++counters.device_to_device;
}

cudaError_t check_range(const void* pointer, size_t size, bool on_device) {
  const Block* block = find_block(pointer);
  if (!on_device || size == 0) return cudaSuccess;
  auto* address = static_cast<const char*>(pointer);
  if (block && address + size <= block->begin + block->size) return cudaSuccess;
  return failed(cudaErrorInvalidValue, "a copy of " + std::to_string(size) + " bytes leaves the device's memory");
}

cudaError_t copy(void* to, const void* from, size_t size, cudaMemcpyKind kind, cudaStream_t stream) {
  return submit(stream, [=] {
    count_copy(to, from, kind);
    if (auto error = check_range(to, size, kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice)) return error;
    if (auto error = check_range(from, size, kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice)) return error;
    memmove(to, from, size);
    return cudaSuccess;
  });
}

cudaError_t copy_rows(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                      cudaMemcpyKind kind, cudaStream_t stream) {
  return submit(stream, [=] {
    count_copy(to, from, kind);
    for (size_t row = 0; row < height; ++row)
      memmove(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch, width);
    return cudaSuccess;
  });
}

struct Event {
  timespec when{};
};

// Streams are numbers; nothing runs apart from the caller.
cudaStream_t new_stream() {
  static uintptr_t last = 0x1000;
  return reinterpret_cast<cudaStream_t>(last += 16);
}

cudaMemPool_t default_pool() { return reinterpret_cast<cudaMemPool_t>(8); }

}  // namespace
}  // namespace coc

using namespace coc;

extern "C" {

// ---- errors
const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorNotSupported: return "cudaErrorNotSupported";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorStreamCaptureImplicit: return "cudaErrorStreamCaptureImplicit";
    default: return "cudaError";
  }
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
cudaError_t cudaGetLastError() { return cudaSuccess; }

// ---- the device
cudaError_t cudaDriverGetVersion(int* version) { *version = kVersion; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { *version = kVersion; return cudaSuccess; }
cudaError_t cudaGetDevice(int* index) { *index = 0; return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) {
  const char* none = getenv("CUDA_ON_CPU_NO_DEVICE");
  *count = none ? 0 : 1;
  return none ? cudaErrorNoDevice : cudaSuccess;
}
cudaError_t cudaSetDevice(int index) { return index == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
cudaError_t cudaDeviceSynchronize() { return synchronise("the device is synchronised"); }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  Limits limit = limits();
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = device().architecture / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = device().architecture % 10; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMaxBlockDimX: *value = 1024; break;
    case cudaDevAttrMaxBlockDimY: *value = 1024; break;
    case cudaDevAttrMaxBlockDimZ: *value = 64; break;
    case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
    case cudaDevAttrMaxGridDimY: *value = 65535; break;
    case cudaDevAttrMaxGridDimZ: *value = 65535; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = limit.shared_per_block; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = limit.shared_per_block_optin; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = limit.shared_per_processor; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = limit.threads_per_processor; break;
    case cudaDevAttrMaxRegistersPerBlock: *value = 65536; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMultiProcessorCount: *value = kProcessors; break;
    case cudaDevAttrMemoryPoolsSupported: *value = 1; break;
    case cudaDevAttrUnifiedAddressing: *value = 1; break;
    default: *value = 0;
  }
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  Limits limit = limits();
  memset(properties, 0, sizeof *properties);
  strcpy(properties->name, "CUDA on CPU: a test harness, no GPU");
  properties->totalGlobalMem = device().memory_limit;
  properties->sharedMemPerBlock = limit.shared_per_block;
  properties->sharedMemPerBlockOptin = limit.shared_per_block_optin;
  properties->sharedMemPerMultiprocessor = limit.shared_per_processor;
  properties->maxThreadsPerMultiProcessor = limit.threads_per_processor;
  properties->regsPerBlock = 65536;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->major = device().architecture / 10;
  properties->minor = device().architecture % 10;
  properties->multiProcessorCount = kProcessors;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetByPCIBusId(int* index, const char*) { *index = 0; return cudaSuccess; }
cudaError_t cudaDeviceGetPCIBusId(char* id, int size, int) { snprintf(id, size, "0000:00:00.0"); return cudaSuccess; }
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { *can = 0; return cudaSuccess; }
cudaError_t cudaDeviceGetLimit(size_t* value, cudaLimit) { *value = 0; return cudaSuccess; }
cudaError_t cudaDeviceSetLimit(cudaLimit, size_t) { return cudaSuccess; }

// ---- memory
cudaError_t cudaMalloc(void** pointer, size_t size) {
  if (cudaError_t error = forbid_in_capture("cudaMalloc", false)) return error;
  return allocate(pointer, size);
}
cudaError_t cudaMallocManaged(void** pointer, size_t size, unsigned) { return cudaMalloc(pointer, size); }
cudaError_t cudaMallocAsync(void** pointer, size_t size, cudaStream_t) { return allocate(pointer, size); }
cudaError_t cudaMallocFromPoolAsync(void** pointer, size_t size, cudaMemPool_t, cudaStream_t) { return allocate(pointer, size); }
cudaError_t cudaFree(void* pointer) {
  if (cudaError_t error = forbid_in_capture("cudaFree", false)) return error;
  return deallocate(pointer);
}
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t) { return deallocate(pointer); }
cudaError_t cudaHostAlloc(void** pointer, size_t size, unsigned) {
  *pointer = malloc(size ? size : 1);
  return *pointer ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFreeHost(void* pointer) { free(pointer); return cudaSuccess; }
cudaError_t cudaHostRegister(void*, size_t, unsigned) { return cudaSuccess; }
cudaError_t cudaHostUnregister(void*) { return cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  *total = device().memory_limit;
  *available = *total - allocated();
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  memset(attributes, 0, sizeof *attributes);
  if (find_block(pointer)) {
    attributes->type = cudaMemoryTypeDevice;
    attributes->devicePointer = const_cast<void*>(pointer);
  } else {
    attributes->type = cudaMemoryTypeUnregistered;
    attributes->hostPointer = const_cast<void*>(pointer);
  }
  return cudaSuccess;
}

// The host waits for a copy that isn't asynchronous, unless it stays on the device.
cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind kind) {
  if (kind != cudaMemcpyDeviceToDevice)
    if (cudaError_t error = synchronise("a copy waits for the device")) return error;
  return copy(to, from, size, kind, nullptr);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind kind, cudaStream_t stream) {
  return copy(to, from, size, kind, stream);
}
cudaError_t cudaMemcpyPeer(void* to, int, const void* from, int, size_t size) {
  return copy(to, from, size, cudaMemcpyDeviceToDevice, nullptr);
}
cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t size, cudaStream_t stream) {
  return copy(to, from, size, cudaMemcpyDeviceToDevice, stream);
}
cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                         cudaMemcpyKind kind) {
  if (kind != cudaMemcpyDeviceToDevice)
    if (cudaError_t error = synchronise("a copy waits for the device")) return error;
  return copy_rows(to, to_pitch, from, from_pitch, width, height, kind, nullptr);
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  return copy_rows(to, to_pitch, from, from_pitch, width, height, kind, stream);
}
cudaError_t cudaMemsetAsync(void* pointer, int value, size_t size, cudaStream_t stream) {
  return submit(stream, [=] {
    ++device().counters.sets;
    if (cudaError_t error = check_range(pointer, size, true)) return error;
    memset(pointer, value, size);
    return cudaSuccess;
  });
}
cudaError_t cudaMemset(void* pointer, int value, size_t size) { return cudaMemsetAsync(pointer, value, size, nullptr); }

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) { *pool = default_pool(); return cudaSuccess; }
cudaError_t cudaDeviceGetMemPool(cudaMemPool_t* pool, int) { *pool = default_pool(); return cudaSuccess; }
cudaError_t cudaDeviceSetMemPool(int, cudaMemPool_t) { return cudaSuccess; }
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void* value) {
  *static_cast<uint64_t*>(value) = allocated();
  return cudaSuccess;
}

// ---- streams and events
cudaError_t cudaStreamCreate(cudaStream_t* stream) { *stream = new_stream(); return cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { *stream = new_stream(); return cudaSuccess; }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) { *stream = new_stream(); return cudaSuccess; }
cudaError_t cudaStreamGetFlags(cudaStream_t, unsigned* flags) { *flags = 0; return cudaSuccess; }
cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) { *priority = 0; return cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return synchronise("a stream is synchronised"); }
cudaError_t cudaStreamQuery(cudaStream_t) { return forbid_in_capture("a stream is queried"); }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t callback, void* data, unsigned) {
  callback(stream, cudaSuccess, data);
  return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return submit(stream, [=] { function(data); return cudaSuccess; });
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(new Event);
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { delete reinterpret_cast<Event*>(event); return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  clock_gettime(CLOCK_MONOTONIC, &reinterpret_cast<Event*>(event)->when);
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return synchronise("an event is waited for"); }
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  timespec a = reinterpret_cast<Event*>(from)->when, b = reinterpret_cast<Event*>(to)->when;
  *milliseconds = static_cast<float>((b.tv_sec - a.tv_sec) * 1e3 + (b.tv_nsec - a.tv_nsec) * 1e-6);
  return cudaSuccess;
}
cudaError_t cudaProfilerStart() { return cudaSuccess; }
cudaError_t cudaProfilerStop() { return cudaSuccess; }

// ---- for Python
void coc_counters(long* values) { memcpy(values, &device().counters, sizeof(Counters)); }
void coc_set_order(int order, unsigned seed) { device().schedule = {static_cast<Order>(order), seed}; }
void coc_set_memory_limit(size_t size) { device().memory_limit = size; }
size_t coc_allocated() { return allocated(); }
void coc_flush_subnormals(int flush) { device().flush_subnormals = flush; }
void coc_fail_kernel(const char* name) { device().failing_kernel = name; }
const char* coc_last_failure() { return device().last_failure.c_str(); }
void coc_clear_failure() { device().last_failure.clear(); }
}

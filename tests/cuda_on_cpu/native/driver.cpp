// The part of the CUDA driver that CuPy calls: modules and launches.
#include <cuda.h>
#undef cuDevicePrimaryCtxRelease
#undef cuCtxCreate
#undef cuCtxDestroy
#undef cuModuleGetGlobal

#include <dlfcn.h>
#include <link.h>
#include <unistd.h>
#include <xmmintrin.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>

#include "device.h"

extern "C" const char* coc_last_failure();

namespace coc {
namespace {

struct Module {
  void* handle = nullptr;
  size_t static_shared = 0;  // of all its kernels together: the module's thread-local storage
};

struct Function {
  const Module* module;
  const coc_kernel_t* kernel;
  std::string name;
  int max_dynamic;
};

CUresult refused(CUresult error, const std::string& what) {
  failed(cudaErrorUnknown, what);
  return error;
}

size_t thread_local_size(void* handle) {
  link_map* map = nullptr;
  if (dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0) return 0;
  struct Search {
    ElfW(Addr) base;
    size_t size;
  } search{map->l_addr, 0};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto* wanted = static_cast<Search*>(data);
        if (info->dlpi_addr != wanted->base) return 0;
        for (int i = 0; i < info->dlpi_phnum; ++i)
          if (info->dlpi_phdr[i].p_type == PT_TLS) wanted->size = info->dlpi_phdr[i].p_memsz;
        return 1;
      },
      &search);
  return search.size;
}

CUresult open_module(CUmodule* module, const char* path) {
  void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return refused(CUDA_ERROR_INVALID_IMAGE, dlerror());
  *module = reinterpret_cast<CUmodule>(new Module{handle, thread_local_size(handle)});
  return CUDA_SUCCESS;
}

// A module is a shared library; its first header says how long it is.
size_t image_size(const char* image) {
  ElfW(Ehdr) header;
  memcpy(&header, image, sizeof header);
  if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return 0;
  return header.e_shoff + size_t{header.e_shentsize} * header.e_shnum;
}

std::string bad_shape(const Function& function, dim3 grid, dim3 block, size_t dynamic) {
  size_t threads = size_t{block.x} * block.y * block.z;
  if (!grid.x || !grid.y || !grid.z || !threads) return "a grid or block of size 0";
  if (threads > static_cast<size_t>(function.kernel->max_threads))
    return std::to_string(threads) + " threads a block, of at most " + std::to_string(function.kernel->max_threads);
  if (block.z > 64) return "a block deeper than 64";
  if (grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535) return "a grid beyond 2147483647 x 65535 x 65535";
  if (dynamic > static_cast<size_t>(function.max_dynamic))
    return std::to_string(dynamic) + " bytes of dynamic shared memory, of at most " + std::to_string(function.max_dynamic);
  return "";
}

// What the kernel is called with: kept, so that a graph can be launched later.
struct Arguments {
  std::vector<std::vector<char>> values;
  std::vector<void*> pointers;

  Arguments(const coc_kernel_t& kernel, void** given) {
    for (int i = 0; i < kernel.parameters; ++i) {
      auto* begin = static_cast<const char*>(given[i]);
      values.emplace_back(begin, begin + kernel.sizes[i]);
    }
    for (auto& value : values) pointers.push_back(value.data());
  }
};

CUresult check_pointers(const Function& function, const Arguments& arguments, std::vector<std::pair<int, Block>>* blocks) {
  for (int i = 0; i < function.kernel->parameters; ++i) {
    if (!function.kernel->pointers[i]) continue;
    void* pointer;
    memcpy(&pointer, arguments.values[i].data(), sizeof pointer);
    if (pointer == nullptr) continue;
    const Block* block = find_block(pointer);
    if (block == nullptr)
      return refused(CUDA_ERROR_ILLEGAL_ADDRESS, "argument " + std::to_string(i) + " of kernel " + function.name +
                                                     " points to no memory of the device");
    blocks->push_back({i, *block});
  }
  return CUDA_SUCCESS;
}

CUresult execute(const Function& function, Arguments& arguments, dim3 grid, dim3 block, size_t dynamic, bool on_device) {
  std::vector<std::pair<int, Block>> blocks;
  if (on_device)
    if (CUresult error = check_pointers(function, arguments, &blocks)) return error;
  ++device().counters.launches;
  Launch launch{function.kernel, arguments.pointers.data(), grid, block, function.module->static_shared, dynamic};
  const unsigned host = _mm_getcsr();
  if (device().flush_subnormals) _mm_setcsr(host | 0x8040);  // what is read, and what is written
  std::string failure = run(launch, device().schedule);
  _mm_setcsr(host);
  if (!failure.empty())
    return refused(CUDA_ERROR_LAUNCH_FAILED, "kernel " + function.name + ": " + failure);
  for (const auto& [index, memory] : blocks)
    if (overrun(memory))
      return refused(CUDA_ERROR_ILLEGAL_ADDRESS, "kernel " + function.name + " wrote past the end of the " +
                                                     std::to_string(memory.size) + " bytes of argument " + std::to_string(index));
  return CUDA_SUCCESS;
}

CUresult launch(CUfunction handle, dim3 grid, dim3 block, size_t dynamic, CUstream stream, void** given, bool on_device) {
  const auto& function = *reinterpret_cast<Function*>(handle);
  if (!device().failing_kernel.empty() && function.name == device().failing_kernel)
    return refused(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "kernel " + function.name + " is to fail");
  if (std::string reason = bad_shape(function, grid, block, dynamic); !reason.empty())
    return refused(CUDA_ERROR_INVALID_VALUE, "kernel " + function.name + " can't be launched: " + reason);
  auto arguments = std::make_shared<Arguments>(*function.kernel, given);
  cudaError_t error = submit(reinterpret_cast<cudaStream_t>(stream), [=, &function] {
    return static_cast<cudaError_t>(execute(function, *arguments, grid, block, dynamic, on_device));
  });
  return static_cast<CUresult>(error);
}

}  // namespace
}  // namespace coc

using namespace coc;

extern "C" {

CUresult cuGetErrorName(CUresult error, const char** name) {
  switch (error) {
    case CUDA_SUCCESS: *name = "CUDA_SUCCESS"; break;
    case CUDA_ERROR_INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
    case CUDA_ERROR_INVALID_IMAGE: *name = "CUDA_ERROR_INVALID_IMAGE"; break;
    case CUDA_ERROR_NOT_FOUND: *name = "CUDA_ERROR_NOT_FOUND"; break;
    case CUDA_ERROR_ILLEGAL_ADDRESS: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
    case CUDA_ERROR_LAUNCH_FAILED: *name = "CUDA_ERROR_LAUNCH_FAILED"; break;
    case CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: *name = "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"; break;
    case CUDA_ERROR_NOT_SUPPORTED: *name = "CUDA_ERROR_NOT_SUPPORTED"; break;
    default: *name = "CUDA_ERROR";
  }
  return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult, const char** text) {
  *text = coc_last_failure();
  return CUDA_SUCCESS;
}
CUresult cuInit(unsigned) { return CUDA_SUCCESS; }

namespace {
const CUcontext kContext = reinterpret_cast<CUcontext>(0x77);
}
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) { return CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(CUcontext* context) { *context = kContext; return CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
CUresult cuCtxCreate_v2(CUcontext* context, unsigned, CUdevice) { *context = kContext; return CUDA_SUCCESS; }
CUresult cuCtxDestroy_v2(CUcontext) { return CUDA_SUCCESS; }
CUresult cuCtxGetDevice(CUdevice* index) { *index = 0; return CUDA_SUCCESS; }
CUresult cuStreamGetCtx(CUstream, CUcontext* context) { *context = kContext; return CUDA_SUCCESS; }

CUresult cuModuleLoad(CUmodule* module, const char* path) { return open_module(module, path); }
CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  auto* bytes = static_cast<const char*>(image);
  size_t size = image_size(bytes);
  if (size == 0) return refused(CUDA_ERROR_INVALID_IMAGE, "this module was not compiled by the harness");
  char path[] = "/tmp/cuda_on_cpu_XXXXXX";
  int file = mkstemp(path);
  if (file < 0) return refused(CUDA_ERROR_INVALID_IMAGE, "no temporary file for a module");
  bool written = write(file, bytes, size) == static_cast<ssize_t>(size);
  close(file);
  CUresult result = written ? open_module(module, path) : refused(CUDA_ERROR_INVALID_IMAGE, "a module can't be written");
  unlink(path);
  return result;
}
// Loaded code stays: a graph may still hold its kernels.
CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction* function, CUmodule handle, const char* name) {
  auto* module = reinterpret_cast<Module*>(handle);
  auto* kernel = static_cast<coc_kernel_t*>(dlsym(module->handle, (std::string("coc_kernel_") + name).c_str()));
  if (kernel == nullptr) return refused(CUDA_ERROR_NOT_FOUND, std::string("the module has no kernel ") + name);
  *function = reinterpret_cast<CUfunction>(new Function{module, kernel, name, limits().shared_per_block});
  return CUDA_SUCCESS;
}
CUresult cuModuleGetGlobal_v2(CUdeviceptr*, size_t*, CUmodule, const char* name) {
  return refused(CUDA_ERROR_NOT_FOUND, std::string("variables of a module can't be looked up: ") + name);
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned dynamic, CUstream stream, void** arguments, void** extra) {
  if (extra) return refused(CUDA_ERROR_NOT_SUPPORTED, "arguments in a buffer are not supported");
  return launch(function, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, dynamic, stream, arguments, true);
}
// For arrays of the host, without CuPy.
CUresult coc_launch_on_host(CUfunction function, const unsigned* shape, size_t dynamic, void** arguments) {
  return launch(function, {shape[0], shape[1], shape[2]}, {shape[3], shape[4], shape[5]}, dynamic, nullptr, arguments, false);
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction handle) {
  auto* function = reinterpret_cast<Function*>(handle);
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = function->kernel->max_threads; break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = function->max_dynamic; break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *value = static_cast<int>(function->module->static_shared); break;
    default: *value = 0;
  }
  return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction handle, CUfunction_attribute attribute, int value) {
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_SUCCESS;
  if (value < 0 || value > limits().shared_per_block_optin)
    return refused(CUDA_ERROR_INVALID_VALUE, std::to_string(value) + " bytes of shared memory, of at most " +
                                                 std::to_string(limits().shared_per_block_optin));
  reinterpret_cast<Function*>(handle)->max_dynamic = value;
  return CUDA_SUCCESS;
}
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction, int threads, size_t) {
  *blocks = limits().threads_per_processor / (threads ? threads : 1);
  return CUDA_SUCCESS;
}
CUresult cuOccupancyMaxPotentialBlockSize(int* grid, int* block, CUfunction, CUoccupancyB2DSize, size_t, int) {
  *grid = 8;
  *block = 256;
  return CUDA_SUCCESS;
}
}

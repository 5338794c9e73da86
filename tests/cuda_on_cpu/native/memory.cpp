#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "device.h"
#include "sanitizers.h"

namespace coc {
namespace {

std::mutex mutex;
std::map<const char*, Block> blocks;
size_t total = 0;

constexpr unsigned char kUnwritten = 0xFF;  // NaN in every floating-point format, -1 in integers
constexpr unsigned char kFreed = 0xFD;
constexpr unsigned char kFence = 0xA5;

// An address checker sees the end by itself.
size_t fence() { return address_checker() ? 0 : 64; }

}  // namespace

cudaError_t allocate(void** pointer, size_t size) {
  std::lock_guard<std::mutex> lock(mutex);
  ++device().counters.allocations;
  *pointer = nullptr;
  if (size == 0) return cudaSuccess;
  if (size > device().memory_limit - std::min(total, device().memory_limit)) return cudaErrorMemoryAllocation;
  void* memory = nullptr;
  if (posix_memalign(&memory, 512, size + fence()) != 0) return cudaErrorMemoryAllocation;
  memset(memory, kUnwritten, size);
  memset(static_cast<char*>(memory) + size, kFence, fence());
  auto* begin = static_cast<char*>(memory);
  blocks[begin] = {begin, size};
  total += size;
  *pointer = memory;
  return cudaSuccess;
}

cudaError_t deallocate(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  std::lock_guard<std::mutex> lock(mutex);
  ++device().counters.frees;
  auto found = blocks.find(static_cast<char*>(pointer));
  if (found == blocks.end()) return failed(cudaErrorInvalidValue, "memory is freed that isn't allocated");
  Block block = found->second;
  bool broken = overrun(block);
  blocks.erase(found);
  total -= block.size;
  memset(block.begin, kFreed, block.size);
  free(block.begin);
  if (broken)
    return failed(cudaErrorIllegalAddress,
                  "something wrote past the end of " + std::to_string(block.size) + " bytes that are freed now");
  return cudaSuccess;
}

const Block* find_block(const void* pointer) {
  std::lock_guard<std::mutex> lock(mutex);
  auto* address = static_cast<const char*>(pointer);
  auto after = blocks.upper_bound(address);
  if (after == blocks.begin()) return nullptr;
  const Block& block = std::prev(after)->second;
  return address <= block.begin + block.size ? &block : nullptr;
}

bool overrun(const Block& block) {
  bool broken = false;
  for (char* byte = block.begin + block.size; byte < block.begin + block.size + fence(); ++byte) {
    broken |= static_cast<unsigned char>(*byte) != kFence;
    *byte = static_cast<char>(kFence);  // whoever is told is told once
  }
  return broken;
}

size_t allocated() {
  std::lock_guard<std::mutex> lock(mutex);
  return total;
}

}  // namespace coc

// What the sanitizers' libraries offer to programs that switch stacks; absent unless one is loaded.
#pragma once

#include <cstddef>

extern "C" {
#define COC_WEAK __attribute__((weak))
COC_WEAK void* __tsan_get_current_fiber();
COC_WEAK void* __tsan_create_fiber(unsigned);
COC_WEAK void __tsan_destroy_fiber(void*);
COC_WEAK void __tsan_switch_to_fiber(void*, unsigned);
COC_WEAK void __tsan_acquire(void*);
COC_WEAK void __tsan_release(void*);
COC_WEAK void __sanitizer_start_switch_fiber(void**, const void*, size_t);
COC_WEAK void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
COC_WEAK void __asan_unpoison_memory_region(const void volatile*, size_t);
#undef COC_WEAK
}

namespace coc {
// Both libraries define the functions that switch stacks; only one defines each of these.
inline bool race_detector() { return __tsan_create_fiber != nullptr; }
inline bool address_checker() { return __asan_unpoison_memory_region != nullptr; }
inline void acquire(void* tag) { if (race_detector()) __tsan_acquire(tag); }
inline void release(void* tag) { if (race_detector()) __tsan_release(tag); }
}  // namespace coc

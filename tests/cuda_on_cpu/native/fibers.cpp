#include "fibers.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <random>
#include <vector>

#include "sanitizers.h"

#ifndef __x86_64__
#error "only x86-64: the switch of stacks is written for it"
#endif

extern "C" {
coc_thread_t* coc_thread = nullptr;
coc_grid_t coc_grid;
// Saves the callee-saved registers on the stack, stores the stack pointer, and goes on at another.
void coc_switch(void** save, void* to);
asm(R"(.text
.globl coc_switch
.hidden coc_switch
.type coc_switch,@function
coc_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi); movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
}

namespace coc {
namespace {

constexpr int kWarp = 32;
constexpr size_t kGuard = 4096;
constexpr size_t kFresh = 32 * 1024;  // of a stack: more than kernels use

enum class State { ready, at_block, at_warp, done };

struct Fiber {
  coc_thread_t thread;  // first: coc_thread points here
  int number = 0;
  State state = State::ready;
  char* stack = nullptr;
  void* stack_pointer = nullptr;
  void* race_fiber = nullptr;
  void* fake_stack = nullptr;
  // what it waits for
  int line = 0;
  coc_warp_t kind = COC_SYNC;
  unsigned mask = 0;
  int source = -1;
  uint64_t value = 0;
  uint64_t result = 0;
  int vote = 0;
};

// Two tags, used in turn: a thread that has passed a barrier can't yet be at the one after the next.
struct Tags {
  char tag[2];
  int turn = 0;
  void* now() { return &tag[turn]; }
  void next() { turn ^= 1; }
};

struct Scheduler {
  std::deque<Fiber> fibers;  // a deque: they don't move when more are added
  size_t stack_size = 0;
  Fiber* current = nullptr;
  int threads = 0;
  int alive = 0;
  const Launch* launch = nullptr;
  std::string failure;
  void* stack_pointer = nullptr;
  void* race_fiber = nullptr;
  void* fake_stack = nullptr;
  const void* stack = nullptr;
  size_t own_stack_size = 0;
  char end_tag = 0;
  char fence_tag = 0;
  Tags block_tags;
  std::vector<Tags> warp_tags;
  coc_votes_t votes{};
  std::vector<char*> used;  // shared memory of blocks that have ended
};

Scheduler scheduler;

void to_scheduler() {
  Scheduler& s = scheduler;
  Fiber* me = s.current;
  if (address_checker())
    __sanitizer_start_switch_fiber(me->state == State::done ? nullptr : &me->fake_stack, s.stack, s.own_stack_size);
  if (race_detector()) __tsan_switch_to_fiber(s.race_fiber, 1);
  coc_switch(&me->stack_pointer, s.stack_pointer);
  if (address_checker()) __sanitizer_finish_switch_fiber(me->fake_stack, nullptr, nullptr);
}

void resume(Fiber& fiber) {
  Scheduler& s = scheduler;
  s.current = &fiber;
  coc_thread = &fiber.thread;
  if (address_checker()) __sanitizer_start_switch_fiber(&s.fake_stack, fiber.stack, s.stack_size);
  if (race_detector()) __tsan_switch_to_fiber(fiber.race_fiber, 1);
  coc_switch(&s.stack_pointer, fiber.stack_pointer);
  if (address_checker()) __sanitizer_finish_switch_fiber(s.fake_stack, nullptr, nullptr);
}

void start() {
  Scheduler& s = scheduler;
  if (address_checker()) __sanitizer_finish_switch_fiber(nullptr, &s.stack, &s.own_stack_size);
  s.launch->kernel->run(s.launch->kernel->function, s.launch->arguments);
  release(&s.end_tag);
  s.current->state = State::done;
  to_scheduler();
  __builtin_trap();
}

std::string place(const Fiber& fiber) {
  return "thread " + std::to_string(fiber.number) + " of block (" + std::to_string(coc_grid.block.x) + ", " +
         std::to_string(coc_grid.block.y) + ", " + std::to_string(coc_grid.block.z) + ")";
}

std::string hex(unsigned mask) {
  char text[16];
  snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

std::string waiting_for(const Fiber& fiber) {
  static const char* const names[] = {"", "__syncwarp", "a shuffle", "a vote", "a match"};
  if (fiber.state == State::at_block) return "__syncthreads at line " + std::to_string(fiber.line);
  if (fiber.state == State::at_warp) return std::string(names[fiber.kind]) + " with the mask " + hex(fiber.mask);
  return "nothing";
}

// For the fibers themselves: gives up, and never comes back.
[[noreturn]] void fail(const std::string& what) {
  scheduler.failure = what + " (" + place(*scheduler.current) + ")";
  to_scheduler();
  __builtin_trap();
}

Fiber* lane_of(const Fiber& fiber, int lane) {
  int number = fiber.number - fiber.thread.lane + lane;
  return number < scheduler.threads ? &scheduler.fibers[number] : nullptr;
}

bool named(const Fiber& fiber, int lane) { return fiber.mask >> lane & 1u; }

// Lets the lanes of a warp go on once all that the mask names, and that still run, have come.
void try_release_warp(const Fiber& fiber) {
  std::vector<Fiber*> lanes(kWarp, nullptr);
  for (int lane = 0; lane < kWarp; ++lane) {
    if (!named(fiber, lane)) continue;
    Fiber* other = lane_of(fiber, lane);
    if (other == nullptr || other->state == State::done) continue;
    if (other->state != State::at_warp || other->mask != fiber.mask || other->kind != fiber.kind) return;
    lanes[lane] = other;
  }
  uint64_t ballot = 0;
  for (int lane = 0; lane < kWarp; ++lane)
    if (lanes[lane] && lanes[lane]->value) ballot |= uint64_t{1} << lane;
  for (Fiber* me : lanes) {
    if (me == nullptr) continue;
    if (me->kind == COC_BALLOT) me->result = ballot;
    if (me->kind == COC_MATCH) {
      me->result = 0;
      for (int lane = 0; lane < kWarp; ++lane)
        if (lanes[lane] && lanes[lane]->value == me->value) me->result |= uint64_t{1} << lane;
    }
    if (me->kind == COC_SHUFFLE) {
      const Fiber* source = me->source >= 0 && me->source < kWarp ? lanes[me->source] : nullptr;
      if (source == nullptr) {
        scheduler.failure = "a shuffle reads lane " + std::to_string(me->source) +
                            ", which the mask " + hex(me->mask) + " doesn't name or which has exited (" +
                            place(*me) + ")";
        return;
      }
      me->result = source->value;
    }
  }
  for (Fiber* me : lanes)
    if (me) me->state = State::ready;
  if (fiber.kind == COC_SYNC) {
    Fiber* first = *std::find_if(lanes.begin(), lanes.end(), [](Fiber* lane) { return lane != nullptr; });
    scheduler.warp_tags[first->number - first->thread.lane + __builtin_ctz(fiber.mask)].next();
  }
}

// Lets the block go on once every thread that still runs has come to the same barrier.
void try_release_block() {
  Scheduler& s = scheduler;
  const Fiber* first = nullptr;
  coc_votes_t votes{};
  for (int i = 0; i < s.threads; ++i) {
    const Fiber& fiber = s.fibers[i];
    if (fiber.state == State::done) continue;
    if (fiber.state != State::at_block) return;
    if (first == nullptr) first = &fiber;
    if (fiber.line != first->line) {
      s.failure = "threads of a block wait at different barriers: " + place(*first) + " for " +
                  waiting_for(*first) + ", " + place(fiber) + " for " + waiting_for(fiber);
      return;
    }
    votes.yes += fiber.vote;
    ++votes.threads;
  }
  s.votes = votes;
  for (int i = 0; i < s.threads; ++i)
    if (s.fibers[i].state == State::at_block) s.fibers[i].state = State::ready;
  s.block_tags.next();
}

void report_deadlock() {
  Scheduler& s = scheduler;
  const Fiber* first = nullptr;
  const Fiber* other = nullptr;
  for (int i = 0; i < s.threads; ++i) {
    const Fiber& fiber = s.fibers[i];
    if (fiber.state == State::done) continue;
    if (first == nullptr) first = &fiber;
    else if (waiting_for(fiber) != waiting_for(*first) && other == nullptr) other = &fiber;
  }
  s.failure = "no thread can go on: " + place(*first) + " waits for " + waiting_for(*first);
  if (other) s.failure += ", " + place(*other) + " for " + waiting_for(*other);
  if (s.alive < s.threads) s.failure += "; " + std::to_string(s.threads - s.alive) + " threads have exited";
}

void make_ready(Fiber& fiber, int number, dim3 size) {
  Scheduler& s = scheduler;
  fiber.number = number;
  fiber.state = State::ready;
  fiber.thread.lane = number % kWarp;
  fiber.thread.index = {number % size.x, number / size.x % size.y, number / (size.x * size.y)};
  // A launch that was given up leaves marks on the stacks.
  if (address_checker()) __asan_unpoison_memory_region(fiber.stack, s.stack_size);
  // A stack is used by one block after another, which the race detector must not take for a race:
  // memory that is mapped anew has no past.
  if (race_detector() && mmap(fiber.stack + s.stack_size - kFresh, kFresh, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
    abort();
  auto** top = reinterpret_cast<void**>(fiber.stack + s.stack_size);
  *--top = nullptr;  // where start() would return to; also keeps the stack aligned
  *--top = reinterpret_cast<void*>(&start);
  for (int i = 0; i < 6; ++i) *--top = nullptr;  // the registers that coc_switch restores
  fiber.stack_pointer = top;
  if (race_detector()) fiber.race_fiber = __tsan_create_fiber(0);
}

void add_fibers(size_t count) {
  Scheduler& s = scheduler;
  s.stack_size = race_detector() || address_checker() ? 256 * 1024 : 64 * 1024;
  while (s.fibers.size() < count) {
    auto* memory = static_cast<char*>(mmap(nullptr, s.stack_size + kGuard, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (memory == MAP_FAILED) abort();
    mprotect(memory, kGuard, PROT_NONE);
    s.fibers.emplace_back();
    s.fibers.back().stack = memory + kGuard;
  }
}

// Memory of exactly this size, so that an address checker sees its end; filled with NaN.
char* shared_memory(size_t size) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 1024, size ? size : 1) != 0) abort();
  memset(memory, 0xFF, size ? size : 1);
  return static_cast<char*>(memory);
}

void free_used() {
  for (char* memory : scheduler.used) free(memory);
  scheduler.used.clear();
}

void run_block(const Schedule& schedule, std::mt19937& random) {
  Scheduler& s = scheduler;
  coc_grid.static_shared = shared_memory(s.launch->static_shared);
  coc_grid.dynamic_shared = shared_memory(s.launch->dynamic_shared);
  std::vector<int> turns(s.threads);
  for (int i = 0; i < s.threads; ++i) {
    make_ready(s.fibers[i], i, s.launch->block);
    turns[i] = schedule.order == Order::reverse ? s.threads - 1 - i : i;
  }
  s.warp_tags.assign(s.threads + kWarp, Tags{});
  s.alive = s.threads;
  while (s.alive && s.failure.empty()) {
    bool progress = false;
    if (schedule.order == Order::random) std::shuffle(turns.begin(), turns.end(), random);
    for (int turn : turns) {
      Fiber& fiber = s.fibers[turn];
      if (fiber.state != State::ready) continue;
      progress = true;
      resume(fiber);
      if (!s.failure.empty()) break;
      if (fiber.state == State::at_warp) try_release_warp(fiber);
      if (fiber.state != State::done) continue;
      --s.alive;
      // Those that wait for its warp may now be complete without it.
      for (int lane = 0; lane < kWarp; ++lane)
        if (Fiber* other = lane_of(fiber, lane); other && other->state == State::at_warp) try_release_warp(*other);
    }
    if (!s.alive || !s.failure.empty()) break;
    bool waited = !progress;
    try_release_block();
    if (waited && s.failure.empty() &&
        std::none_of(s.fibers.begin(), s.fibers.begin() + s.threads, [](const Fiber& f) { return f.state == State::ready; }))
      report_deadlock();
  }
  if (race_detector())
    for (int i = 0; i < s.threads; ++i) __tsan_destroy_fiber(s.fibers[i].race_fiber);
  s.used.push_back(coc_grid.static_shared);
  s.used.push_back(coc_grid.dynamic_shared);
  if (!race_detector()) free_used();
}

}  // namespace

std::string run(const Launch& launch, const Schedule& schedule) {
  Scheduler& s = scheduler;
  s.launch = &launch;
  s.failure.clear();
  s.threads = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
  add_fibers(s.threads);
  if (race_detector()) s.race_fiber = __tsan_get_current_fiber();
  coc_grid.block_size = launch.block;
  coc_grid.grid_size = launch.grid;
  std::mt19937 random(schedule.seed);
  uint64_t blocks = uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
  for (uint64_t i = 0; i < blocks && s.failure.empty(); ++i) {
    uint64_t block = schedule.order == Order::reverse ? blocks - 1 - i : i;
    coc_grid.block = {static_cast<unsigned>(block % launch.grid.x),
                      static_cast<unsigned>(block / launch.grid.x % launch.grid.y),
                      static_cast<unsigned>(block / launch.grid.x / launch.grid.y)};
    run_block(schedule, random);
  }
  // Only now: between two blocks nothing is ordered, so a race between them is seen.
  acquire(&s.end_tag);
  free_used();  // to a race detector, freeing is writing: not before the line above
  coc_thread = nullptr;
  return s.failure;
}

}  // namespace coc

extern "C" {

coc_votes_t coc_sync_block(int line, int vote) {
  coc::Scheduler& s = coc::scheduler;
  coc::Fiber* me = s.current;
  me->state = coc::State::at_block;
  me->line = line;
  me->vote = vote;
  void* tag = s.block_tags.now();
  coc::release(tag);
  coc::to_scheduler();
  coc::acquire(tag);
  return s.votes;
}

// Only __syncwarp orders memory; shuffles and votes don't.
uint64_t coc_sync_warp(coc_warp_t kind, unsigned mask, uint64_t value, int source) {
  coc::Scheduler& s = coc::scheduler;
  coc::Fiber* me = s.current;
  if (!(mask >> me->thread.lane & 1u))
    coc::fail("a lane calls a warp function with the mask " + coc::hex(mask) + ", which doesn't name it");
  me->state = coc::State::at_warp;
  me->kind = kind;
  me->mask = mask;
  me->value = value;
  me->source = source;
  void* tag = s.warp_tags[me->number - me->thread.lane + __builtin_ctz(mask)].now();
  if (kind == COC_SYNC) coc::release(tag);
  coc::to_scheduler();
  if (kind == COC_SYNC) coc::acquire(tag);
  return me->result;
}

// A race detector knows no fences: this one orders all that passes it, which is more than CUDA does.
void coc_fence() {
  coc::acquire(&coc::scheduler.fence_tag);
  coc::release(&coc::scheduler.fence_tag);
}
}

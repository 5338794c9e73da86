// Sharing tasks among threads: the library's own, or those that XLA lends.
#pragma once
#include <cfenv>
#include <functional>
#include <memory>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "kernel.h"

namespace ctcx {

// The tasks of a call, which has ended once there is no owner any more.
class Work;
void help(const std::weak_ptr<Work> &);

// Asks for up to so many threads to help, now, later or never.
using Recruit = std::function<void(int helpers, const std::weak_ptr<Work> &)>;

// Threads of the library's own. Fewer come where the system starts no more.
void recruit_from_pool(int helpers, const std::weak_ptr<Work> &work);

// Cores that this process may run on.
int usable_cores();

struct Interrupted {};

// While it exists, its thread rounds to the nearest, keeps subnormal numbers and traps nothing,
// whatever the program has set: results are the same on any thread.
class UsualArithmetic {
 public:
  UsualArithmetic() { enter(); }
  ~UsualArithmetic() { leave(); }
  UsualArithmetic(const UsualArithmetic &) = delete;
  UsualArithmetic &operator=(const UsualArithmetic &) = delete;
#if defined(__SSE2__)  // the register that all of it is computed by; the whole environment takes a tenth of a small call
  void enter() { programs_ = _mm_getcsr(), _mm_setcsr(0x1f80); }
  void leave() { _mm_setcsr(programs_); }

 private:
  unsigned programs_;
#else
  void enter() { std::fegetenv(&programs_), std::fesetenv(FE_DFL_ENV); }
  void leave() { std::fesetenv(&programs_); }

 private:
  std::fenv_t programs_;
#endif
};

struct Team {
  int threads;  // at most, the caller's among them
  Recruit recruit;
  std::function<bool()> interrupted;  // asked by the calling thread; may be empty

  // Calls task(0) to task(number - 1), on the calling thread and on those that come, and returns
  // when all have returned. Throws what a task has thrown, or Interrupted. Tasks may call pause().
  void share(Size number, const std::function<void(Size)> &task) const;
};

}  // namespace ctcx

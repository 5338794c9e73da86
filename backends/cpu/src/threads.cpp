#include "threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#if defined(__linux__)
#include <sched.h>
#endif
#if defined(_WIN32)
#define NOMINMAX
#include <windows.h>
#else
#include <pthread.h>
#include <signal.h>
#endif
#if defined(__APPLE__)
#include <dlfcn.h>
#endif

namespace ctcx {
namespace {

// Has the system never unload this library, whose code the threads of the pool are in. On ELF the
// linker has said so. Unverified: both of these.
void stay_loaded() {
#if defined(_WIN32)
  HMODULE module;
  GetModuleHandleExA(GET_MODULE_HANDLE_EX_FLAG_PIN | GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS,
                     reinterpret_cast<LPCSTR>(&stay_loaded), &module);
#elif defined(__APPLE__)
  Dl_info info;
  if (dladdr(reinterpret_cast<void *>(&stay_loaded), &info)) dlopen(info.dli_fname, RTLD_LAZY | RTLD_NODELETE);
#endif
}

// While it exists, its thread starts others that take no signals: a program handles its signals, or
// waits for them, in threads of its own. Faults of a thread itself can't be left to another one.
class WithoutSignals {
#if !defined(_WIN32)
 public:
  WithoutSignals() {
    sigset_t others;
    sigfillset(&others);
    for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS}) sigdelset(&others, fault);
    pthread_sigmask(SIG_SETMASK, &others, &programs_);
  }
  ~WithoutSignals() { pthread_sigmask(SIG_SETMASK, &programs_, nullptr); }

 private:
  sigset_t programs_;
#endif
};

// While it exists, nobody cancels its thread, as pthread_cancel does in functions that wait.
class Uncancelled {
#if !defined(_WIN32)
 public:
  Uncancelled() { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &programs_); }
  ~Uncancelled() { pthread_setcancelstate(programs_, nullptr); }

 private:
  int programs_;
#endif
};

class Pool {
 public:
  Pool() { stay_loaded(); }

  void ask(int helpers, const std::weak_ptr<Work> &work) {
    std::lock_guard lock(mutex_);
    while (threads_ < helpers && start_one()) {
    }
    if (waiting_.size() >= many_) {  // while all threads are busy, others' calls may end
      std::erase_if(waiting_, [](const auto &each) { return each.expired(); });
      many_ = 2 * waiting_.size() + 1000;
    }
    for (int i = 0; i < std::min(helpers, threads_); i++) {
      waiting_.push_back(work);
      wake_.notify_one();
    }
  }

 private:
  bool start_one() {
    try {
      [[maybe_unused]] const WithoutSignals signals;
      std::thread([this] { serve(); }).detach();
    } catch (const std::exception &) {  // no more threads, or no memory for one
      return false;
    }
    threads_++;
    return true;
  }
  void serve() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return !waiting_.empty(); });
      const std::weak_ptr<Work> work = std::move(waiting_.front());
      waiting_.pop_front();
      lock.unlock();
      help(work);
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::weak_ptr<Work>> waiting_;
  std::size_t many_ = 1000;  // from so many on, those that have ended are looked for
  int threads_ = 0;
};

// Never destroyed: its threads may outlive the main function. A forked child has none of them, and
// the locks may be held there for ever, so it gets a new pool.
std::atomic<Pool *> the_pool{nullptr};
std::atomic<unsigned> forks{0};  // between the first process that loaded the library and this one
#if !defined(_WIN32)
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { the_pool = nullptr, forks++; });
#endif

Pool &pool() {
  Pool *found = the_pool;
  if (!found) {
    auto made = std::make_unique<Pool>();
    if (the_pool.compare_exchange_strong(found, made.get())) found = made.release();
  }
  return *found;
}

thread_local Work *current = nullptr;  // whose task this thread is in
constexpr std::chrono::milliseconds patience(50);  // between two questions about interruptions

}  // namespace

// Some tasks, and the threads that have come to do them. The caller works on everything itself,
// then closes the door and waits only for those inside: a thread that comes late touches nothing
// but this object.
class Work {
 public:
  Work(Size number, const std::function<void(Size)> &task, const std::function<bool()> &interrupted, bool alone)
      : number_(number), task_(task), interrupted_(interrupted), alone_(alone) {}

  void visit() {
    {
      std::lock_guard lock(mutex_);
      if (closed_) return;
      inside_++;
    }
    std::exception_ptr error;
    try {
      const UsualArithmetic arithmetic;
      do_tasks(false);
    } catch (const Stopped &) {
    } catch (...) {
      error = std::current_exception();
    }
    std::lock_guard lock(mutex_);
    if (!error_) error_ = error;
    if (--inside_ == 0) empty_.notify_one();
  }

  // All else that the caller throws goes on: it may be what pthread_exit unwinds the stack by.
  void run() {
    try {
      struct Leaving {
        Work &work;
        ~Leaving() {
          while (!work.others_have_left()) {
          }
        }
      } leaving{*this};
      do_tasks(true);
    } catch (const Stopped &) {
    }
    if (error_) std::rethrow_exception(error_);
  }

  void pause() {
    if (stopped_) throw Stopped();
    if (std::this_thread::get_id() == caller_) ask();
  }

 private:
  struct Stopped {};  // because of what another thread has thrown

  void do_tasks(bool is_caller) {
    struct Turn {
      Work &work;
      Work *const outer = std::exchange(current, &work);
      bool is_done = false;
      ~Turn() {
        current = outer;
        if (!is_done) work.stopped_ = true;
      }
    } turn{*this};
    for (Size i; (i = begun_.fetch_add(1, std::memory_order_relaxed)) < number_;) task_(i), pause();
    while (is_caller && !others_have_left()) ask();
    if (is_caller && has_lost_threads()) throw Interrupted();
    turn.is_done = true;
  }

  void ask() {
    if (!interrupted_ || std::chrono::steady_clock::now() - asked_ < patience) return;
    const bool told = interrupted_();
    asked_ = std::chrono::steady_clock::now();
    if (told || has_lost_threads()) throw Interrupted();
  }

  // In a child that `interrupted` or a signal handler has forked: the others and what they had begun
  // are gone, and they may have held the lock.
  bool has_lost_threads() const { return !alone_ && forks != forks_; }

  // Lets no more come in, and waits for a while.
  bool others_have_left() {
    if (alone_ || has_lost_threads()) return true;
    [[maybe_unused]] const Uncancelled uncancelled;
    std::unique_lock lock(mutex_);
    closed_ = true;
    return empty_.wait_for(lock, patience, [this] { return inside_ == 0; });
  }

  const Size number_;
  const std::function<void(Size)> &task_;  // outlives all that are inside
  const std::function<bool()> &interrupted_;
  const bool alone_;
  const std::thread::id caller_ = std::this_thread::get_id();
  const unsigned forks_ = forks;
  std::chrono::steady_clock::time_point asked_ = std::chrono::steady_clock::now();  // the caller's
  std::atomic<Size> begun_{0};
  std::atomic<bool> stopped_{false};
  std::mutex mutex_;
  std::condition_variable empty_;
  int inside_ = 0;
  bool closed_ = false;
  std::exception_ptr error_;
};

void help(const std::weak_ptr<Work> &work) {
  if (const std::shared_ptr<Work> found = work.lock()) found->visit();
}

void recruit_from_pool(int helpers, const std::weak_ptr<Work> &work) { pool().ask(helpers, work); }

int usable_cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(CPU_COUNT(&set), 1);
#endif
  return std::max(int(std::thread::hardware_concurrency()), 1);
}

void pause() {
  if (current) current->pause();
}

void Team::share(Size number, const std::function<void(Size)> &task) const {
  const int helpers = int(std::min(Size(threads), number)) - 1;
  if (helpers <= 0) return Work(number, task, interrupted, true).run();
  auto work = std::make_shared<Work>(number, task, interrupted, false);
  try {
    recruit(helpers, work);
  } catch (const std::exception &) {  // no memory to ask for more: fewer come
  }
  work->run();
}

}  // namespace ctcx

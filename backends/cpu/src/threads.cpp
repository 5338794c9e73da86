#include "threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#if defined(__linux__)
#include <sched.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace ctcx {
namespace {

class Pool {
 public:
  void ask(int helpers, const std::function<void()> &visit) {
    std::lock_guard lock(mutex_);
    while (threads_ < helpers && start_one()) {
    }
    for (int i = 0; i < std::min(helpers, threads_); i++) {
      waiting_.push_back(visit);
      wake_.notify_one();
    }
  }

 private:
  bool start_one() {
    try {
      std::thread([this] { work(); }).detach();
    } catch (const std::system_error &) {  // no more threads, by a limit of the process or system
      return false;
    }
    threads_++;
    return true;
  }
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return !waiting_.empty(); });
      std::function<void()> visit = std::move(waiting_.front());
      waiting_.pop_front();
      lock.unlock();
      visit();
      visit = nullptr;
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> waiting_;
  int threads_ = 0;
};

// Never destroyed: its threads may outlive the main function. A forked child has none of them, and
// the locks may be held there for ever, so it gets a new pool.
std::atomic<Pool *> the_pool{nullptr};

Pool &pool() {
  static std::once_flag once;
  std::call_once(once, [] {
    the_pool = new Pool;
#if !defined(_WIN32)
    pthread_atfork(nullptr, nullptr, [] { the_pool = new Pool; });
#endif
  });
  return *the_pool;
}

// Some tasks, and the threads that have come to do them. The caller works on everything itself,
// then closes the door and waits only for those inside: a thread that comes late touches nothing
// but this object.
class Work {
 public:
  Work(Size number, const std::function<void(Size)> &task) : number_(number), task_(task) {}

  void visit() {
    {
      std::lock_guard lock(mutex_);
      if (closed_) return;
      inside_++;
    }
    do_tasks([] { return false; });
    std::lock_guard lock(mutex_);
    if (--inside_ == 0) empty_.notify_one();
  }

  void run(const std::function<bool()> &interrupted) {
    auto asked = std::chrono::steady_clock::now();
    do_tasks([&] {
      auto now = std::chrono::steady_clock::now();
      if (now - asked < std::chrono::milliseconds(50)) return false;
      asked = now;
      return interrupted && interrupted();
    });
    std::unique_lock lock(mutex_);
    closed_ = true;
    empty_.wait(lock, [this] { return inside_ == 0; });
    if (error_) std::rethrow_exception(error_);
  }

 private:
  template <class F> void do_tasks(F interrupted) {
    try {
      for (Size i; (i = begun_.fetch_add(1, std::memory_order_relaxed)) < number_;) {
        task_(i);
        if (interrupted()) throw Interrupted();
      }
    } catch (...) {
      begun_ = number_;
      std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }

  const Size number_;
  const std::function<void(Size)> &task_;  // outlives all that are inside
  std::atomic<Size> begun_{0};
  std::mutex mutex_;
  std::condition_variable empty_;
  int inside_ = 0;
  bool closed_ = false;
  std::exception_ptr error_;
};

}  // namespace

void recruit_from_pool(int helpers, const std::function<void()> &visit) {
  pool().ask(helpers, visit);
}

int usable_cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(CPU_COUNT(&set), 1);
#endif
  return std::max(int(std::thread::hardware_concurrency()), 1);
}

void Team::share(Size number, const std::function<void(Size)> &task) const {
  const int helpers = int(std::min(Size(threads), number)) - 1;
  auto work = std::make_shared<Work>(number, task);
  if (helpers > 0) recruit(helpers, [work] { work->visit(); });
  work->run(interrupted);
}

}  // namespace ctcx

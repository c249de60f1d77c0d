// Threads that go through one long piece of work in step, woken once: at::parallel_for wakes them for every loop, which
// costs more than a layer of a small model.
#pragma once

#include <ATen/Parallel.h>

#include <atomic>
#include <mutex>
#include <thread>

namespace massif {

/// Where the threads of a team meet.
struct Meeting {
  std::atomic<int64_t> part{0}, arrived{0}, round{0};
};

/// One thread's view of its team.
class Team {
 public:
  Team(Meeting& meeting, int64_t rank, int64_t size) : rank(rank), size(size), meeting_(meeting) {}
  const int64_t rank, size;

  /// f(from, to) for this thread's part of [0, n), which is the same every time; nobody goes on before all have done theirs.
  template <class F>
  void share(int64_t n, const F& f) {
    if (const int64_t from = n * rank / size, to = n * (rank + 1) / size; from < to) f(from, to);
    wait();
  }

  void wait() {
    if (size == 1) return;
    const int64_t round = meeting_.round.load(std::memory_order_relaxed);
    if (meeting_.arrived.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
      meeting_.arrived.store(0, std::memory_order_relaxed);
      meeting_.round.store(round + 1, std::memory_order_release);
      return;
    }
    until([&] { return meeting_.round.load(std::memory_order_acquire) != round; });
  }

  /// Spins for some microseconds, then lets others run: the thread waited for may not have a core.
  template <class F>
  static void until(const F& done) {
    for (int spins = 0; !done(); spins++)
      if (spins > 1000)
        std::this_thread::yield();
      else
        rest();
  }

 private:
  Meeting& meeting_;

  static void rest() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
};

/// f(team) on up to `wanted` threads. It must not throw.
template <class F>
void as_team(int64_t wanted, const F& f) {
  Meeting meeting;
  if (wanted <= 1 || at::in_parallel_region()) {
    Team alone(meeting, 0, 1);
    return f(alone);
  }
  static std::mutex one;  // two teams, each with threads that the other waits for, would wait forever
  std::lock_guard<std::mutex> lock(one);
  at::parallel_for(0, wanted, 1, [&](int64_t from, int64_t to) {
    // There may be fewer threads than wanted; the first one's part tells how many.
    if (from == 0) meeting.part.store(to, std::memory_order_release);
    int64_t part = 0;
    Team::until([&] { return (part = meeting.part.load(std::memory_order_acquire)) != 0; });
    Team team(meeting, from / part, (wanted + part - 1) / part);
    f(team);
  });
}

}  // namespace massif

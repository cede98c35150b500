// Loops over independent items on whatever threads the host offers.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace onnxrewrite {

class Parallel {
 public:
  virtual ~Parallel() = default;

  // Calls body(item, runner) once for every item below `items`, in any order and on any thread. No two calls
  // that overlap in time share `runner`, a number below runners(items). The first exception is rethrown here.
  template <class Body>
  void forEach(size_t items, const Body& body) {
    if (items == 0) return;
    Loop<Body> loop{items, body};
    const size_t count = runners(items);
    if (count == 1) {
      Loop<Body>::run(&loop, 0);
    } else {
      start(count, &Loop<Body>::run, &loop);
    }
    if (loop.error) std::rethrow_exception(loop.error);
  }

  static size_t runners(size_t items) { return items < kMaxRunners ? items : kMaxRunners; }

  static constexpr size_t kMaxRunners = 256;

 protected:
  // Calls run(state, runner) for every runner below `count` and returns when all have returned.
  virtual void start(size_t count, void (*run)(void* state, size_t runner), void* state) = 0;

 private:
  // Runners take the next item until none is left, so a slow item delays nobody.
  template <class Body>
  struct Loop {
    size_t items;
    const Body& body;
    std::atomic<size_t> next{0};
    std::mutex failing{};
    std::exception_ptr error{};

    static void run(void* state, size_t runner) {
      Loop& loop = *static_cast<Loop*>(state);
      for (size_t item; (item = loop.next.fetch_add(1, std::memory_order_relaxed)) < loop.items;) {
        try {
          loop.body(item, runner);
        } catch (...) {
          const std::lock_guard<std::mutex> lock(loop.failing);
          if (!loop.error) loop.error = std::current_exception();
          loop.next.store(loop.items, std::memory_order_relaxed);
        }
      }
    }
  };
};

// One T for each runner of a loop, made when the runner first asks.
template <class T>
class PerRunner {
 public:
  explicit PerRunner(size_t items) : values_(Parallel::runners(items)) {}

  template <class... Arguments>
  T& get(size_t runner, Arguments&&... arguments) {
    std::optional<T>& value = values_[runner];
    if (!value) value.emplace(std::forward<Arguments>(arguments)...);
    return *value;
  }

 private:
  std::vector<std::optional<T>> values_;
};

}  // namespace onnxrewrite

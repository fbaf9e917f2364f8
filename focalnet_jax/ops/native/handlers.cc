// The XLA custom calls: an example's channels by groups are tasks for XLA's own threads.
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>

#include "levels.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::Result<Array>;
using Sizes = ffi::Span<const int64_t>;

namespace {

constexpr int64_t kGroup = 16;  // channels of a task: a line of the cache, whatever a register holds
constexpr int64_t kNumbers = 1 << 14;  // of a task that takes each number by itself

// Calls task(0) ... task(count - 1), here and on the threads of the pool that come to it before they are done.
void run_tasks(ffi::ThreadPool& pool, int64_t count, std::function<void(int64_t)> task) {
  struct Shared {
    std::function<void(int64_t)> task;
    int64_t count;
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable finished;

    void work() {
      for (int64_t i; (i = next++) < count;) {
        task(i);
        if (++done == count) {
          std::lock_guard<std::mutex> lock(mutex);
          finished.notify_all();
        }
      }
    }
  };
  auto shared = std::make_shared<Shared>();  // a thread may come when all is done and the caller gone
  shared->task = std::move(task);
  shared->count = count;
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), count) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([shared] { shared->work(); });
  shared->work();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->finished.wait(lock, [&] { return shared->done == shared->count; });
}

Levels levels_of(const Array& context, const Array& gates, const Array& taps, const Array& bias, Sizes sizes, float scale) {
  const auto shape = context.dimensions();
  return {shape[0], shape[1], shape[2], shape[3], {sizes.begin(), sizes.end()}, context.typed_data(),
          gates.typed_data(), taps.typed_data(), bias.typed_data(), scale};
}

// Calls run(block, group) of each register's worth of channels of each example.
template <typename F>
void run_blocks(ffi::ThreadPool& pool, const Levels& of, F run) {
  const int64_t groups = (of.channels + kGroup - 1) / kGroup;
  run_tasks(pool, of.batch * groups, [&of, groups, run](int64_t task) {
    const int64_t group = task % groups, end = std::min(of.channels, (group + 1) * kGroup);
    for (int64_t channel = group * kGroup; channel < end; channel += kLanes)
      run(Block{of, task / groups, channel, static_cast<int>(std::min<int64_t>(kLanes, end - channel))}, group);
  });
}

ffi::Error levels(ffi::ThreadPool pool, Array context, Array gates, Array taps, Array bias, Result total, Sizes sizes,
                  float scale) {
  const Levels of = levels_of(context, gates, taps, bias, sizes, scale);
  run_blocks(pool, of, [&](const Block& block, int64_t) { forward(block, total->typed_data()); });
  return ffi::Error::Success();
}

ffi::Error gradients(ffi::ThreadPool pool, Array context, Array gates, Array taps, Array bias, Array rising,
                     Result to_context, Result gate_parts, Result tap_parts, Sizes sizes, float scale) {
  const Levels of = levels_of(context, gates, taps, bias, sizes, scale);
  const int64_t gates_of_example = of.places() * (of.count() + 1);
  std::memset(gate_parts->typed_data(), 0, gate_parts->size_bytes());
  run_blocks(pool, of, [&](const Block& block, int64_t group) {
    float* to_gates = gate_parts->typed_data() + (group * of.batch + block.example) * gates_of_example;
    float* to_taps = tap_parts->typed_data() + block.example * (of.rows_of_taps() + 1) * of.channels + block.channel;
    backward(block, rising.typed_data(), to_context->typed_data(), to_gates, to_taps);
  });
  return ffi::Error::Success();
}

// Calls run(at, lanes) of each register's worth of so many numbers, four that do not wait for one another at a time.
template <typename F>
void run_numbers(ffi::ThreadPool& pool, int64_t count, F run) {
  run_tasks(pool, (count + kNumbers - 1) / kNumbers, [count, run](int64_t task) {
    const int64_t end = std::min(count, (task + 1) * kNumbers);
    int64_t at = task * kNumbers;
    for (; at + 4 * kLanes <= end; at += 4 * kLanes) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) run(at + i * kLanes, kLanes);
    }
    for (; at < end; at += kLanes) run(at, static_cast<int>(std::min<int64_t>(kLanes, end - at)));
  });
}

ffi::Error activate(ffi::ThreadPool pool, Array x, Result y) {
  const float* from = x.typed_data();
  float* to = y->typed_data();
  run_numbers(pool, x.element_count(),
              [=](int64_t at, int lanes) { store_some(to + at, gelu(load_some(from + at, lanes)), lanes); });
  return ffi::Error::Success();
}

ffi::Error activate_back(ffi::ThreadPool pool, Array x, Array rising, Result to_x) {
  const float *from = x.typed_data(), *above = rising.typed_data();
  float* to = to_x->typed_data();
  run_numbers(pool, x.element_count(), [=](int64_t at, int lanes) {
    V slope;
    gelu_and_slope(load_some(from + at, lanes), &slope);
    store_some(to + at, load_some(above + at, lanes) * slope, lanes);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(gelu_of_each, activate, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Array>().Ret<Array>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(gelu_gradient, activate_back,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Array>().Arg<Array>().Ret<Array>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(focal_levels, levels,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Attr<Sizes>("sizes")
                                  .Attr<float>("scale"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(focal_level_gradients, gradients,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Attr<Sizes>("sizes")
                                  .Attr<float>("scale"));

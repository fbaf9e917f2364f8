// The XLA custom calls. XLA's threads run their tasks: a group of channels of an example, rows, or a block of a product.
#include "levels.h"
#include "products.h"
#include "rows.h"
#include "tasks.h"

using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::Result<Array>;
// Holds floats, but is declared as integers: checks of results for NaN skip integers, and parts of it stay unwritten.
using Workspace = ffi::Buffer<ffi::S32>;
using Sizes = ffi::Span<const int64_t>;

namespace {

constexpr int64_t kGroup = CHANNELS_OF_TASK;

Levels levels_of(const Array& context, const Array& gates, const Array& taps, const Array& bias, Sizes sizes, float scale) {
  const auto shape = context.dimensions();
  return {shape[0], shape[1], shape[2], shape[3], {sizes.begin(), sizes.end()}, context.typed_data(),
          gates.typed_data(), taps.typed_data(), bias.typed_data(), scale};
}

// Calls run(block, group) for each vector of channels of each example.
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

ffi::Error gradients(ffi::ThreadPool pool, Array context, Array gates, Array taps, Array bias, Array upstream,
                     Result to_context, Result gate_parts, Result tap_parts, Sizes sizes, float scale) {
  const Levels of = levels_of(context, gates, taps, bias, sizes, scale);
  const int64_t gates_of_example = of.places() * (of.count() + 1);
  std::memset(gate_parts->typed_data(), 0, gate_parts->size_bytes());
  run_blocks(pool, of, [&](const Block& block, int64_t group) {
    float* to_gates = gate_parts->typed_data() + (group * of.batch + block.example) * gates_of_example;
    float* to_taps = tap_parts->typed_data() + block.example * (of.rows_of_taps() + 1) * of.channels + block.channel;
    backward(block, upstream.typed_data(), to_context->typed_data(), to_gates, to_taps);
  });
  return ffi::Error::Success();
}

int64_t rows_of(const Array& x) { return x.element_count() / x.dimensions().back(); }

ffi::Error normalize(ffi::ThreadPool pool, Array x, Array scale, Array bias, Result y, float epsilon) {
  const LayerNorm norm{x.dimensions().back(), x.typed_data(), scale.typed_data(), bias.typed_data(), epsilon};
  float* to = y->typed_data();
  run_rows(pool, rows_of(x), norm.channels, [=](int64_t, int64_t first, int64_t end) { norm.forward(first, end, to); });
  return ffi::Error::Success();
}

ffi::Error normalize_back(ffi::ThreadPool pool, Array x, Array scale, Array upstream, Result to_x, Result parts,
                          float epsilon) {
  const LayerNorm norm{x.dimensions().back(), x.typed_data(), scale.typed_data(), nullptr, epsilon};
  const float* above = upstream.typed_data();
  float *to = to_x->typed_data(), *to_both = parts->typed_data();
  run_rows(pool, rows_of(x), norm.channels, [=](int64_t task, int64_t first, int64_t end) {
    norm.backward(first, end, above, to, to_both + task * 2 * norm.channels);
  });
  return ffi::Error::Success();
}

ffi::Error activate(ffi::ThreadPool pool, Array x, Array bias, Result y) {
  const Activation of{rows_of(x), x.dimensions().back(), x.typed_data(), bias.typed_data()};
  float* to = y->typed_data();
  run_rows(pool, of.rows, of.channels, [=](int64_t, int64_t first, int64_t end) { of.forward(first, end, to); });
  return ffi::Error::Success();
}

ffi::Error activate_back(ffi::ThreadPool pool, Array x, Array bias, Array upstream, Result to_x, Result parts,
                         Result y) {
  const Activation of{rows_of(x), x.dimensions().back(), x.typed_data(), bias.typed_data()};
  const float* above = upstream.typed_data();
  float *to = to_x->typed_data(), *to_bias = parts->typed_data(), *again = y->typed_data();
  run_rows(pool, of.rows, of.channels, [=](int64_t task, int64_t first, int64_t end) {
    of.backward(first, end, above, to, to_bias + task * of.channels, again);
  });
  return ffi::Error::Success();
}

float* floats(ffi::Result<Workspace>& scratch) { return reinterpret_cast<float*>(scratch->typed_data()); }

// `[..., I]` times a kernel `[I, O]`, or `[..., O]` times its transpose.
template <bool kTransposed>
ffi::Error multiply(ffi::ThreadPool pool, Array x, Array kernel, Result y, ffi::Result<Workspace> packed) {
  const int64_t depth = x.dimensions().back();
  const Matrix rows{x.typed_data(), rows_of(x), depth, false};
  const Matrix of{kernel.typed_data(), depth, kernel.dimensions()[!kTransposed], kTransposed};
  rows_times_kernel(pool, rows, of, floats(packed), y->typed_data());
  return ffi::Error::Success();
}

// The transpose of `[..., I]` times `[..., O]`, summed over all leading axes: `[I, O]`.
ffi::Error multiply_transposed(ffi::ThreadPool pool, Array x, Array y, Result total, ffi::Result<Workspace> parts) {
  const Matrix transposed{x.typed_data(), x.dimensions().back(), rows_of(x), true};
  const Matrix rows{y.typed_data(), rows_of(y), y.dimensions().back(), false};
  sum_over_rows(pool, transposed, rows, parts->dimensions()[0], floats(parts), total->typed_data());
  return ffi::Error::Success();
}

// Binds a handler's arrays, kGiven inputs and kWritten outputs. XLA's bindings cannot be moved, so a lambda makes them.
template <int kGiven, int kWritten, typename Make>
auto arrays_after(Make make) {
  if constexpr (kGiven > 0)
    return arrays_after<kGiven - 1, kWritten>([make] { return make().template Arg<Array>(); });
  else if constexpr (kWritten > 0)
    return arrays_after<0, kWritten - 1>([make] { return make().template Ret<Array>(); });
  else
    return make();
}
template <int kGiven, int kWritten>
auto arrays() {
  return arrays_after<kGiven, kWritten>([] { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>(); });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(layer_norm, normalize, (arrays<3, 1>().Attr<float>("epsilon")));
XLA_FFI_DEFINE_HANDLER_SYMBOL(layer_norm_gradients, normalize_back, (arrays<3, 2>().Attr<float>("epsilon")));
XLA_FFI_DEFINE_HANDLER_SYMBOL(gelu_with_bias, activate, (arrays<2, 1>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(gelu_gradients, activate_back, (arrays<3, 3>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(product, multiply<false>, (arrays<2, 1>().Ret<Workspace>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(product_of_transposed, multiply<true>, (arrays<2, 1>().Ret<Workspace>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(transposed_product, multiply_transposed, (arrays<2, 1>().Ret<Workspace>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(focal_levels, levels, (arrays<4, 1>().Attr<Sizes>("sizes").Attr<float>("scale")));
XLA_FFI_DEFINE_HANDLER_SYMBOL(focal_level_gradients, gradients,
                              (arrays<5, 3>().Attr<Sizes>("sizes").Attr<float>("scale")));

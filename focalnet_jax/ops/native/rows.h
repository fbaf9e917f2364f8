// Operations on single rows [C] of a map: LayerNorm, bias and GELU, and their gradients.
//
// A task is a range of rows. Gradients summed over rows, of bias and scale, are written per task; XLA adds them up.
#pragma once

#include <cmath>

#include "tasks.h"

// Number of rows per task: a multiple of 16, about kNumbers values. `ops/native/__init__.py` computes the same number.
inline int64_t rows_of_task(int64_t channels) { return std::max<int64_t>(1, kNumbers / channels / 16) * 16; }

// Calls run(task, first, end) with the range of rows of each task.
template <typename F>
void run_rows(ffi::ThreadPool& pool, int64_t rows, int64_t channels, F run) {
  const int64_t each = rows_of_task(channels);
  run_tasks(pool, (rows + each - 1) / each,
            [=](int64_t task) { run(task, task * each, std::min(rows, (task + 1) * each)); });
}

// Calls run(at, lanes) for each vector of a row.
template <typename F>
inline void each_vector(int64_t channels, F run) {
  int64_t at = 0;
  for (; at + kLanes <= channels; at += kLanes) run(at, kLanes);
  if (at < channels) run(at, static_cast<int>(channels - at));
}

inline V only(V x, int lanes) { return lanes == kLanes ? x : load_some(reinterpret_cast<const float*>(&x), lanes); }
inline void add_some(float* to, V x, int lanes) { store_some(to, load_some(to, lanes) + x, lanes); }

struct LayerNorm {
  int64_t channels;
  const float *x, *scale, *bias;
  float epsilon;

  struct Moments {
    float mean, inverse;  // 1 / standard deviation
  };

  Moments moments(const float* row) const {
    V total{}, squares{};
    each_vector(channels, [&](int64_t at, int lanes) { total += load_some(row + at, lanes); });
    const float mean = sum(total) / channels;
    each_vector(channels, [&](int64_t at, int lanes) {
      const V centred = only(load_some(row + at, lanes) - mean, lanes);
      squares += centred * centred;
    });
    return {mean, 1.f / std::sqrt(sum(squares) / channels + epsilon)};
  }

  void forward(int64_t first, int64_t end, float* y) const {
    for (int64_t i = first * channels; i < end * channels; i += channels) {
      const Moments of = moments(x + i);
      each_vector(channels, [&](int64_t at, int lanes) {
        const V normal = (load_some(x + i + at, lanes) - of.mean) * of.inverse;
        store_some(y + i + at, normal * load_some(scale + at, lanes) + load_some(bias + at, lanes), lanes);
      });
    }
  }

  // Writes these rows' share of the gradients of scale and bias to `to_both` [2, C].
  void backward(int64_t first, int64_t end, const float* upstream, float* to_x, float* to_both) const {
    std::fill(to_both, to_both + 2 * channels, 0.f);
    for (int64_t i = first * channels; i < end * channels; i += channels) {
      const Moments of = moments(x + i);
      V total{}, along{};
      each_vector(channels, [&](int64_t at, int lanes) {
        const V normal = (load_some(x + i + at, lanes) - of.mean) * of.inverse;
        const V above = load_some(upstream + i + at, lanes), scaled = above * load_some(scale + at, lanes);
        total += scaled;
        along += scaled * normal;
        add_some(to_both + at, above * normal, lanes);
        add_some(to_both + channels + at, above, lanes);
      });
      const float mean = sum(total) / channels, slope = sum(along) / channels;
      each_vector(channels, [&](int64_t at, int lanes) {
        const V normal = (load_some(x + i + at, lanes) - of.mean) * of.inverse;
        const V scaled = load_some(upstream + i + at, lanes) * load_some(scale + at, lanes);
        store_some(to_x + i + at, (scaled - mean - normal * slope) * of.inverse, lanes);
      });
    }
  }
};

// Adds a bias, then applies GELU.
struct Activation {
  int64_t rows, channels;
  const float *x, *bias;

  V input(int64_t row, int64_t at, int lanes) const {
    return load_some(x + row * channels + at, lanes) + load_some(bias + at, lanes);
  }

  void forward(int64_t first, int64_t end, float* y) const {
    for (int64_t row = first; row < end; ++row)
      each_vector(channels, [&](int64_t at, int lanes) {
        store_some(y + row * channels + at, gelu(input(row, at, lanes)), lanes);
      });
  }

  // Computes `y` again: the gradient of the next layer's kernel needs it.
  void backward(int64_t first, int64_t end, const float* upstream, float* to_x, float* to_bias, float* y) const {
    std::fill(to_bias, to_bias + channels, 0.f);
    for (int64_t row = first; row < end; ++row)
      each_vector(channels, [&](int64_t at, int lanes) {
        V slope;
        store_some(y + row * channels + at, gelu_and_slope(input(row, at, lanes), &slope), lanes);
        const V gradient = load_some(upstream + row * channels + at, lanes) * slope;
        store_some(to_x + row * channels + at, gradient, lanes);
        add_some(to_bias + at, gradient, lanes);
      });
  }
};

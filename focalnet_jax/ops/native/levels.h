// The gated sum of all focal levels for one example and one vector of its channels, and the gradients of that sum.
//
// Maps of one vector of channels stay in the cache from the first level to the last: the context is read once, and the
// sum is written once. The backward pass computes the levels again.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "vectors.h"

// Context [B, H, W, C], gates [B, H, W, L + 1], and the taps of all depthwise kernels, concatenated: [sum of k * k, C].
struct Levels {
  int64_t batch, height, width, channels;
  std::vector<int64_t> sizes;  // k of each level
  const float *context, *gates, *taps, *bias;
  float scale;  // factor of the sum

  int64_t count() const { return sizes.size(); }
  int64_t places() const { return height * width; }
  int64_t rows_of_taps() const {
    int64_t total = 0;
    for (int64_t k : sizes) total += k * k;
    return total;
  }
  int64_t pad() const { return *std::max_element(sizes.begin(), sizes.end()) / 2; }
};

// Number of places of a row computed at a time: their sums fill the registers, and common widths are multiples of it.
inline int strip_of(int64_t width) { return width % 7 == 0 ? 7 : 8; }

// Memory of a thread, kept between calls: maps with zero padding, and maps without.
class Scratch {
 public:
  explicit Scratch(const Levels& of)
      : height_(of.height), pad_(of.pad()), places_(of.places()),
        row_((of.width + strip_of(of.width) - 1) / strip_of(of.width) * strip_of(of.width) + 2 * pad_) {}

  int64_t row() const { return row_; }
  int64_t padded() const { return (height_ + 2 * pad_) * row_; }
  int64_t at(int64_t y, int64_t x) const { return (y + pad_) * row_ + x + pad_; }

  void reserve(int64_t padded_maps, int64_t maps, int64_t taps) {
    static thread_local std::vector<V> memory;
    const int64_t needed = padded_maps * padded() + maps * places_ + taps;
    if (static_cast<int64_t>(memory.size()) < needed) memory.resize(needed);
    next_ = memory.data();
  }
  V* padded_map() {
    V* map = next_;
    std::memset(static_cast<void*>(map), 0, padded() * sizeof(V));
    next_ += padded();
    return map;
  }
  V* map() { return take(places_); }
  V* take(int64_t count) { return std::exchange(next_, next_ + count); }

 private:
  int64_t height_, pad_, places_, row_;
  V* next_ = nullptr;
};

// The convolution at P places of a row; `in` points k / 2 rows and columns before the first place.
template <int P>
inline void convolve(const V* in, int64_t row, const V* taps, int64_t k, V* sums) {
  V total[P] = {};
  for (int64_t i = 0; i < k; ++i, in += row)
    for (int64_t j = 0; j < k; ++j) {
      const V tap = *taps++;
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) total[p] += tap * in[j + p];
    }
  for (int p = 0; p < P; ++p) sums[p] = total[p];
}

// Calls then(y, x, z) with the convolution z at each place.
template <int P, typename F>
inline void convolve_map(const Levels& of, const Scratch& scratch, const V* in, const V* taps, int64_t k, F then) {
  V sums[P];
  for (int64_t y = 0; y < of.height; ++y)
    for (int64_t x = 0; x < of.width; x += P) {
      convolve<P>(in + scratch.at(y - k / 2, x - k / 2), scratch.row(), taps, k, sums);
      const int count = std::min<int64_t>(P, of.width - x);
      for (int p = 0; p < count; ++p) then(y, x + p, sums[p]);
    }
}

template <typename F>
inline void each_convolution(const Levels& of, const Scratch& scratch, const V* in, const V* taps, int64_t k, F then) {
  if (strip_of(of.width) == 7) convolve_map<7>(of, scratch, in, taps, k, then);
  else convolve_map<8>(of, scratch, in, taps, k, then);
}

// Adds gradient times input, over some rows of places, to the sums of N taps of a kernel's row.
template <int N>
inline void add_products(const V* in, const V* gradient, int64_t row, int64_t rows, int64_t width, V* sums) {
  constexpr int kAtOnce = N < 4 ? 3 : (N < 5 ? 2 : 1);  // independent sums
  V total[kAtOnce][N] = {};
  for (; rows > 0; --rows, in += row, gradient += row) {
    int64_t x = 0;
    for (; x + kAtOnce <= width; x += kAtOnce)
      for (int a = 0; a < kAtOnce; ++a)
        for (int n = 0; n < N; ++n) total[a][n] += gradient[x + a] * in[x + a + n];
    for (; x < width; ++x)
      for (int n = 0; n < N; ++n) total[0][n] += gradient[x] * in[x + n];
  }
  for (int a = 0; a < kAtOnce; ++a)
    for (int n = 0; n < N; ++n) sums[n] += total[a][n];
}

// Does so for the first of the remaining taps of a kernel's row, at most 7, which fit the registers. Returns how many.
inline int64_t add_products_of(int64_t taps, const V* in, const V* gradient, int64_t row, int64_t rows, int64_t width,
                               V* sums) {
  switch (taps) {
    case 1: add_products<1>(in, gradient, row, rows, width, sums); return 1;
    case 2: add_products<2>(in, gradient, row, rows, width, sums); return 2;
    case 3: add_products<3>(in, gradient, row, rows, width, sums); return 3;
    case 4: add_products<4>(in, gradient, row, rows, width, sums); return 4;
    case 5: add_products<5>(in, gradient, row, rows, width, sums); return 5;
    case 9: add_products<5>(in, gradient, row, rows, width, sums); return 5;  // the remaining 4 follow
    case 6: add_products<6>(in, gradient, row, rows, width, sums); return 6;
    default: add_products<7>(in, gradient, row, rows, width, sums); return 7;
  }
}

// Adds the gradient of a kernel to `to` [k * k]. Takes as many rows at a time as fit the L1 cache: each is read k times.
inline void kernel_gradient(const Levels& of, const Scratch& scratch, const V* in, const V* gradient, int64_t k, V* to) {
  const int64_t at_once = std::max<int64_t>(1, 112 / of.width);
  for (int64_t y = 0; y < of.height; y += at_once)
    for (int64_t i = 0; i < k; ++i)
      for (int64_t j = 0; j < k;)
        j += add_products_of(k - j, in + scratch.at(y + i - k / 2, j - k / 2), gradient + scratch.at(y, 0),
                             scratch.row(), std::min(at_once, of.height - y), of.width, to + i * k + j);
}

// One vector of channels of one example; loads the context with its bias, and the taps.
struct Block {
  const Levels& of;
  int64_t example, channel;
  int lanes;

  int64_t at(int64_t place) const { return (example * of.places() + place) * of.channels + channel; }
  const float* gates(int64_t place) const {
    return of.gates + (example * of.places() + place) * (of.count() + 1);
  }
  void load_context(const Scratch& scratch, V* map) const {
    const V bias = load_some(of.bias + channel, lanes);
    for (int64_t y = 0; y < of.height; ++y)
      for (int64_t x = 0; x < of.width; ++x)
        map[scratch.at(y, x)] = load_some(of.context + at(y * of.width + x), lanes) + bias;
  }
  void load_taps(V* taps) const {
    for (int64_t i = 0; i < of.rows_of_taps(); ++i) taps[i] = load_some(of.taps + i * of.channels + channel, lanes);
  }
};

// The sum of `of(y, x)` over a map, row by row: a single running sum of values of one sign would lose digits.
template <typename F>
inline V sum_over(const Levels& levels, F of) {
  V total{};
  for (int64_t y = 0; y < levels.height; ++y) {
    V row{};
    for (int64_t x = 0; x < levels.width; ++x) row += of(y, x);
    total += row;
  }
  return total;
}

inline void forward(const Block& block, float* out) {
  const Levels& of = block.of;
  Scratch scratch(of);
  scratch.reserve(2, 1, of.rows_of_taps());
  V *below = scratch.padded_map(), *above = scratch.padded_map(), *total = scratch.map();
  V* taps = scratch.take(of.rows_of_taps());
  block.load_context(scratch, below);
  block.load_taps(taps);
  std::fill(total, total + of.places(), V{});
  for (int64_t level = 0; level < of.count(); ++level) {
    const int64_t k = of.sizes[level];
    each_convolution(of, scratch, below, taps, k, [&](int64_t y, int64_t x, V z) {
      const V each = gelu(z);
      const int64_t place = y * of.width + x;
      above[scratch.at(y, x)] = each;
      total[place] += each * block.gates(place)[level];
    });
    taps += k * k;
    std::swap(below, above);
  }
  const V all = sum_over(of, [&](int64_t y, int64_t x) { return below[scratch.at(y, x)]; });
  const V global = gelu(all / static_cast<float>(of.places()));
  for (int64_t place = 0; place < of.places(); ++place) {
    const V sum = (total[place] + global * block.gates(place)[of.count()]) * of.scale;
    store_some(out + block.at(place), sum, block.lanes);
  }
}

// `upstream` is the gradient of the sum. Writes the gradient of the context; adds this block's share of the gates'
// gradient to `to_gates` [H, W, L + 1]; writes the gradients of taps and bias for one example, [sum of k * k + 1, C].
inline void backward(const Block& block, const float* upstream, float* to_context, float* to_gates, float* to_taps) {
  const Levels& of = block.of;
  const int64_t count = of.count(), all_taps = of.rows_of_taps();
  Scratch scratch(of);
  scratch.reserve(count + 2, count + 2, 3 * all_taps);
  std::vector<V*> contexts(count + 1), slopes(count);
  for (V*& map : contexts) map = scratch.padded_map();
  for (V*& map : slopes) map = scratch.map();
  V *gradient = scratch.padded_map(), *above = scratch.map(), *cotangent = scratch.map();
  V *taps = scratch.take(all_taps), *transposed = scratch.take(all_taps), *sums = scratch.take(all_taps);
  block.load_context(scratch, contexts[0]);
  block.load_taps(taps);
  std::fill(sums, sums + all_taps, V{});

  std::vector<int64_t> first(count, 0);  // first row of each level's taps
  for (int64_t level = 0; level < count; ++level) {
    const int64_t k = of.sizes[level];
    if (level) first[level] = first[level - 1] + of.sizes[level - 1] * of.sizes[level - 1];
    std::reverse_copy(taps + first[level], taps + first[level] + k * k, transposed + first[level]);
    each_convolution(of, scratch, contexts[level], taps + first[level], k, [&](int64_t y, int64_t x, V z) {
      const V each = gelu_and_slope(z, &slopes[level][y * of.width + x]);
      contexts[level + 1][scratch.at(y, x)] = each;
    });
  }
  const V all = sum_over(of, [&](int64_t y, int64_t x) { return contexts[count][scratch.at(y, x)]; });
  V slope;
  const V global = gelu_and_slope(all / static_cast<float>(of.places()), &slope);
  for (int64_t place = 0; place < of.places(); ++place) {
    cotangent[place] = load_some(upstream + block.at(place), block.lanes) * of.scale;
    to_gates[place * (count + 1) + count] += sum(cotangent[place] * global);
  }
  const V to_global = sum_over(of, [&](int64_t y, int64_t x) {
    const int64_t place = y * of.width + x;
    return cotangent[place] * block.gates(place)[count];
  });
  std::fill(above, above + of.places(), to_global * slope / static_cast<float>(of.places()));

  for (int64_t level = count - 1; level >= 0; --level) {
    const int64_t k = of.sizes[level];
    for (int64_t y = 0; y < of.height; ++y)
      for (int64_t x = 0; x < of.width; ++x) {
        const int64_t place = y * of.width + x;
        const V each = cotangent[place];
        to_gates[place * (count + 1) + level] += sum(each * contexts[level + 1][scratch.at(y, x)]);
        gradient[scratch.at(y, x)] = (each * block.gates(place)[level] + above[place]) * slopes[level][place];
      }
    kernel_gradient(of, scratch, contexts[level], gradient, k, sums + first[level]);
    each_convolution(of, scratch, gradient, transposed + first[level], k,
                     [&](int64_t y, int64_t x, V z) { above[y * of.width + x] = z; });
  }
  for (int64_t place = 0; place < of.places(); ++place)
    store_some(to_context + block.at(place), above[place], block.lanes);
  const V to_bias = sum_over(of, [&](int64_t y, int64_t x) { return above[y * of.width + x]; });
  for (int64_t i = 0; i < all_taps; ++i) store_some(to_taps + i * of.channels, sums[i], block.lanes);
  store_some(to_taps + all_taps * of.channels, to_bias, block.lanes);
}

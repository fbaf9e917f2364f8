// Matrix products in float32: of a linear layer, and of its gradients.
//
// A task computes one block of rows and columns. It packs a few hundred values of the summed dimension at a time into
// contiguous memory. A tile is the part of a block whose sums fill the registers.
#pragma once

#include <algorithm>
#include <vector>

#include "rows.h"

constexpr int kTileRows = kLanes == 16 ? 14 : 6;
constexpr int kTileColumns = 2 * kLanes;
constexpr int64_t kDepth = DEPTH_OF_PRODUCT;
constexpr int64_t kRowStride = kDepth + kLanes;  // not a power of two: rows would evict each other from the cache
constexpr int64_t kRowsOfBlock = 224, kColumnsOfBlock = 256;
static_assert(COLUMNS_OF_TILES % kTileColumns == 0, "memory for packed kernels must hold whole tiles");

// A matrix [rows, columns]; if `transposed`, stored as [columns, rows].
struct Matrix {
  const float* numbers;
  int64_t rows, columns;
  bool transposed;

  const float* at(int64_t row, int64_t column) const {
    return numbers + (transposed ? column * rows + row : row * columns + column);
  }
};

// A range of rows, of columns, or of the summed dimension.
struct Span {
  int64_t first, count;
};

// The i-th of `parts` about equal ranges of `all`, in multiples of `unit`.
inline Span share(int64_t all, int64_t parts, int64_t i, int64_t unit = 1) {
  const int64_t units = (all + unit - 1) / unit;
  const int64_t first = std::min(all, i * units / parts * unit), end = std::min(all, (i + 1) * units / parts * unit);
  return {first, end - first};
}

// The number of parts of at most `most`; the number of columns rounded up to whole tiles.
inline int64_t parts_of(int64_t all, int64_t most) { return (all + most - 1) / most; }
inline int64_t in_whole_tiles(int64_t columns) { return parts_of(columns, kTileColumns) * kTileColumns; }

// Packs rows of `a` with a stride of kRowStride; if `a` is transposed, packs each tile as [depth, rows of the tile].
inline void pack_left(const Matrix& a, Span rows, Span depth, float* to) {
  if (!a.transposed) {
    for (int64_t i = 0; i < rows.count; ++i)
      std::memcpy(to + i * kRowStride, a.at(rows.first + i, depth.first), depth.count * sizeof(float));
    return;
  }
  const int64_t tiles = parts_of(rows.count, kTileRows);
  for (int64_t t = 0; t < tiles; ++t) {
    const Span of = share(rows.count, tiles, t);
    const float* in = a.at(rows.first + of.first, depth.first);
    float* out = to + of.first * depth.count;
    const bool room = rows.first + of.first + kLanes <= a.rows;  // the excess is overwritten by the next column
    for (int64_t k = 0; k < depth.count; ++k, in += a.rows, out += of.count)
      if (room) store_some(out, load_some(in, kLanes), kLanes);
      else std::memcpy(out, in, of.count * sizeof(float));
  }
}

// Transposes a square tile in the registers: pairs of rows exchange halves, then quarters, and so on.
inline void transpose_tile(V* tile) {
#pragma GCC unroll 4
  for (int half = kLanes / 2; half > 0; half /= 2) {
    I low, high;
    for (int j = 0; j < kLanes; ++j) {
      low[j] = j & half ? kLanes + j - half : j;
      high[j] = j & half ? kLanes + j : j + half;
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i)
      if (!(i & half)) {
        const V a = tile[i], b = tile[i + half];
        tile[i] = __builtin_shuffle(a, b, low);
        tile[i + half] = __builtin_shuffle(a, b, high);
      }
  }
}

// Packs columns of `b` as tiles [depth, kTileColumns].
inline void pack_right(const Matrix& b, Span columns, Span depth, float* to) {
  const auto place = [=](int64_t k, int64_t n) {
    return to + (n - n % kTileColumns) * depth.count + k * kTileColumns + n % kTileColumns;
  };
  if (!b.transposed) {  // a few rows at a time, for contiguous reads
    for (int64_t k = 0; k < depth.count; k += kLanes)
      each_vector(columns.count, [&](int64_t n, int lanes) {
        for (int64_t i = k; i < std::min(k + kLanes, depth.count); ++i)
          store_some(place(i, n), load_some(b.at(depth.first + i, columns.first + n), lanes), kLanes);
      });
    return;
  }
  each_vector(columns.count, [&](int64_t n, int lanes) {
    for (int64_t k = 0; k < depth.count; k += kLanes) {
      const int count = static_cast<int>(std::min<int64_t>(kLanes, depth.count - k));
      V square[kLanes] = {};
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i)
        if (i < lanes) square[i] = load_some(b.at(depth.first + k, columns.first + n + i), count);
      transpose_tile(square);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i)
        if (i < count) store_some(place(k + i, n), square[i], kLanes);
    }
  });
}

// Where a tile's sums are stored, or added if `add`.
struct Place {
  float* to;
  int64_t stride;
  int columns;
  bool add;

  void put(V sums, int64_t row, int n) const {
    float* at = to + row * stride + n * kLanes;
    const int lanes = std::min(kLanes, columns - n * kLanes);
    store_some(at, add ? sums + load_some(at, lanes) : sums, lanes);
  }
};

// Stores the last, incomplete columns. A separate call with sums in memory: inlined, it would keep the sums of
// `tile` in memory instead of registers.
__attribute__((noinline)) inline void put_edge(const V* sums, int rows, int registers, const Place& place) {
  for (int i = 0; i < rows; ++i)
    for (int n = 0; n < registers; ++n) place.put(sums[i * registers + n], i, n);
}

// Computes H rows and N vectors of columns. `a` is packed as rows, or if kColumns as [depth, H].
template <int H, int N, bool kColumns>
inline void tile(const float* a, const float* b, int64_t depth, const Place& place) {
#pragma GCC unroll 16
  for (int i = 0; i < H; ++i)
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) __builtin_prefetch(place.to + i * place.stride + n * kLanes, 1);
  V sums[H][N] = {};
  for (int64_t k = 0; k < depth; ++k, b += kTileColumns) {
    V right[N];
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) right[n] = load_some(b + n * kLanes, kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < H; ++i) {
      const float left = kColumns ? a[k * H + i] : a[i * kRowStride + k];
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) sums[i][n] += left * right[n];
    }
  }
  if (place.columns < N * kLanes) {
    V edge[H][N];
#pragma GCC unroll 16
    for (int i = 0; i < H; ++i)
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) edge[i][n] = sums[i][n];
    return put_edge(edge[0], H, N, place);
  }
#pragma GCC unroll 16
  for (int i = 0; i < H; ++i)
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) {
      float* at = place.to + i * place.stride + n * kLanes;
      store_some(at, place.add ? sums[i][n] + load_some(at, kLanes) : sums[i][n], kLanes);
    }
}

template <int H, bool kColumns>
void tile_of(int64_t rows, const float* a, const float* b, int64_t depth, const Place& place) {
  if (rows < H) {
    if constexpr (H > 1) tile_of<H - 1, kColumns>(rows, a, b, depth, place);
  } else if (place.columns > kLanes) {
    tile<H, 2, kColumns>(a, b, depth, place);
  } else {
    tile<H, 1, kColumns>(a, b, depth, place);
  }
}

struct Product {
  Matrix a, b;
  const float* packed;  // all of `b` packed by pack_right; null: each block packs its part

  // Computes a block of the product, summed over a range of the depth.
  void compute(Span rows, Span columns, Span depth, float* out) const {
    static thread_local std::vector<V> memory;
    const int64_t left = (rows.count + 2) * kRowStride / kLanes + 1;  // plus the excess of the last tile
    const int64_t needed = left + (packed ? 0 : in_whole_tiles(columns.count) * kDepth / kLanes);
    if (static_cast<int64_t>(memory.size()) < needed) memory.resize(needed);
    float *packed_a = reinterpret_cast<float*>(memory.data()), *packed_b = packed_a + left * kLanes;
    const auto run = a.transposed ? tile_of<kTileRows, true> : tile_of<kTileRows, false>;
    const int64_t tiles = parts_of(rows.count, kTileRows);
    for (int64_t k = 0; k < depth.count; k += kDepth) {
      const Span some{depth.first + k, std::min(kDepth, depth.count - k)};
      const float* right = packed_b;
      if (packed) right = packed + in_whole_tiles(b.columns) * some.first + columns.first * some.count;
      else pack_right(b, columns, some, packed_b);
      pack_left(a, rows, some, packed_a);
      for (int64_t t = 0; t < tiles; ++t) {
        const Span of = share(rows.count, tiles, t);
        const float* each = packed_a + of.first * (a.transposed ? some.count : kRowStride);
        float* to = out + (rows.first + of.first) * b.columns + columns.first;
        for (int64_t n = 0; n < columns.count; n += kTileColumns) {
          const int count = static_cast<int>(std::min<int64_t>(kTileColumns, columns.count - n));
          run(of.count, each, right + n * some.count, some.count, {to + n, b.columns, count, k > 0});
        }
      }
    }
  }
};

// Multiplies rows by a layer's kernel, packed once for all blocks: tiles [depth, kTileColumns] for each range of depth.
inline void rows_times_kernel(ffi::ThreadPool& pool, const Matrix& a, const Matrix& b, float* packed, float* out) {
  const int64_t groups = parts_of(b.columns, kColumnsOfBlock), depths = parts_of(b.rows, kDepth);
  run_tasks(pool, groups * depths, [=](int64_t task) {
    const Span columns = share(b.columns, groups, task % groups, kTileColumns);
    const int64_t first = task / groups * kDepth;
    const Span depth{first, std::min(kDepth, b.rows - first)};
    pack_right(b, columns, depth, packed + in_whole_tiles(b.columns) * first + columns.first * depth.count);
  });
  const Product product{a, b, packed};
  const int64_t across = parts_of(a.rows, kRowsOfBlock), along = std::min(groups, parts_of(TASKS_OF_PRODUCT, across));
  run_tasks(pool, across * along, [=](int64_t task) {
    product.compute(share(a.rows, across, task / along), share(b.columns, along, task % along, kTileColumns),
                    {0, b.rows}, out);
  });
}

// Computes a kernel's gradient, a sum over all rows. Several `parts` are summed separately, [parts, a.rows, b.columns].
inline void sum_over_rows(ffi::ThreadPool& pool, const Matrix& a, const Matrix& b, int64_t parts, float* apart,
                          float* out) {
  const Product product{a, b, nullptr};
  const int64_t across = parts_of(a.rows, ROWS_OF_SUM), along = parts_of(b.columns, COLUMNS_OF_SUM);
  const int64_t blocks = across * along, size = a.rows * b.columns;
  run_tasks(pool, parts * blocks, [=](int64_t task) {
    const int64_t block = task % blocks, part = task / blocks;
    product.compute(share(a.rows, across, block / along), share(b.columns, along, block % along, kTileColumns),
                    share(b.rows, parts, part, kDepth), parts > 1 ? apart + part * size : out);
  });
  if (parts == 1) return;
  const int64_t chunks = parts_of(size, kNumbers);
  run_tasks(pool, chunks, [=](int64_t task) {
    const Span some = share(size, chunks, task, kLanes);
    each_vector(some.count, [&](int64_t at, int lanes) {
      V total{};
      for (int64_t part = 0; part < parts; ++part) total += load_some(apart + part * size + some.first + at, lanes);
      store_some(out + some.first + at, total, lanes);
    });
  });
}

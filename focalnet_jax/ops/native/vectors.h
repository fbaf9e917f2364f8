// A vector of channels in one register, and GELU. The coefficients are macros defined by build.py from gelu.py.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __AVX512F__
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif

typedef float V __attribute__((vector_size(4 * kLanes)));
typedef int32_t I __attribute__((vector_size(4 * kLanes)));

inline V all(float x) { return x - V{}; }

// Loads the first `lanes` channels, 0 for the others. All lanes together take one instruction.
inline V load_some(const float* from, int lanes) {
  V x{};
  std::memcpy(&x, from, lanes == kLanes ? sizeof(V) : lanes * sizeof(float));
  return x;
}
inline void store_some(float* to, V x, int lanes) {
  if (lanes == kLanes) std::memcpy(to, &x, sizeof(V));
  else std::memcpy(to, &x, lanes * sizeof(float));
}

// The sum of all lanes, by repeated halving.
inline float sum(V x) {
  I lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  for (int half = kLanes / 2; half > 0; half /= 2) x += __builtin_shuffle(x, lane ^ half);
  return x[0];
}

// exp(x) for x <= 0: 2^n times the Taylor series of the remainder, at most ln(2) / 2 in size; relative error 6e-9.
inline V exp_below_0(V x) {
  x = x < -87.f ? all(-87.f) : x;  // exp(x) is denormal below this
  const I n = __builtin_convertvector(x * 1.44269504f - 0.5f, I);
  const V whole = __builtin_convertvector(n, V);
  const V r = x - whole * 0.693359375f + whole * 2.12194440e-4f;  // ln(2) in two parts: n times the first is exact
  constexpr float taylor[] = {1.f / 5040, 1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 1.f / 2, 1, 1};
  V series = all(taylor[0]);
  for (int i = 1; i < 8; ++i) series = series * r + taylor[i];
  return (V)((n + 127) << 23) * series;
}

// The cumulative normal distribution Phi, as a quotient of polynomials (_normal_as_quotient of gelu.py).
inline V normal(V z) {
  constexpr float numerator[] = {GELU_NUMERATOR}, denominator[] = {GELU_DENOMINATOR};
  constexpr int powers = sizeof(numerator) / 4 - 1, powers_below = sizeof(denominator) / 4 - 1;
  const V largest = all(GELU_LARGEST);
  const V t = z > largest ? largest : (z < -largest ? -largest : z), square = t * t;
  V above = all(numerator[powers]), below = all(denominator[powers_below]);
  for (int i = powers - 1; i >= 0; --i) above = above * square + numerator[i];
  for (int i = powers_below - 1; i >= 0; --i) below = below * square + denominator[i];
  return 0.5f + t * above / below;
}

inline V gelu(V z) { return z * normal(z); }

// GELU, and its derivative Phi(z) + z phi(z) in `slope`.
inline V gelu_and_slope(V z, V* slope) {
  const V phi = normal(z);
  *slope = phi + z * exp_below_0(-0.5f * z * z) * 0.398942280f;
  return z * phi;
}

// The types that logits may be of, and the type that each is computed in.
#pragma once
#include <bit>
#include <cstdint>

namespace {

struct Float16 {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

template <class X> struct ComputedIn {
  using Type = float;
};
template <> struct ComputedIn<double> {
  using Type = double;
};

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(BFloat16 x) { return std::bit_cast<float>(std::uint32_t(x.bits) << 16); }
inline float widen(Float16 x) {
  std::uint32_t sign = std::uint32_t(x.bits & 0x8000) << 16, rest = std::uint32_t(x.bits & 0x7fff);
  float magnitude = std::bit_cast<float>((rest << 13) + 0x38000000);
  // By way of an integer, since a processor may be set to read subnormal numbers as 0.
  if (rest < 0x400) magnitude = float(std::int32_t(rest)) * 0x1p-24f;
  if (rest >= 0x7c00) magnitude = std::bit_cast<float>(0x7f800000 | rest << 13);
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
}

// Rounded to the nearest, ties to even.
template <class X> X narrow(typename ComputedIn<X>::Type x) { return x; }
template <> inline BFloat16 narrow<BFloat16>(float x) {
  std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  if (x != x) return {std::uint16_t(bits >> 16 | 0x40)};
  return {std::uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
template <> inline Float16 narrow<Float16>(float x) {
  std::uint32_t bits = std::bit_cast<std::uint32_t>(x), rest = bits & 0x7fffffff;
  std::uint16_t sign = std::uint16_t(bits >> 16 & 0x8000);
  if (rest > 0x7f800000) return {std::uint16_t(sign | 0x7e00)};
  if (rest >= 0x47800000) return {std::uint16_t(sign | 0x7c00)};  // 65536 and more
  if (rest < 0x38800000) {  // less than 2^-14: adding 1/2 leaves the last digit at 2^-24
    float shifted = std::bit_cast<float>(rest) + 0.5f;
    return {std::uint16_t(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000))};
  }
  rest += 0xfff + (rest >> 13 & 1);  // may carry into the exponent, up to infinity
  return {std::uint16_t(sign | ((rest - 0x38000000) >> 13))};
}

}  // namespace

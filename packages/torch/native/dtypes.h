// Names of dtypes as JavaScript and safetensors' readers see them: PyTorch's own.
#pragma once
#include <c10/core/ScalarType.h>

#include <optional>
#include <string>

namespace massif {

struct NamedDtype {
  const char* name;
  at::ScalarType type;
};

inline constexpr NamedDtype kDtypes[] = {
    {"float32", at::kFloat},        {"float64", at::kDouble},       {"float16", at::kHalf},
    {"bfloat16", at::kBFloat16},    {"int64", at::kLong},           {"int32", at::kInt},
    {"int16", at::kShort},          {"int8", at::kChar},            {"uint8", at::kByte},
    {"bool", at::kBool},            {"uint16", at::kUInt16},        {"uint32", at::kUInt32},
    {"uint64", at::kUInt64},        {"float8_e4m3fn", at::kFloat8_e4m3fn}, {"float8_e5m2", at::kFloat8_e5m2},
    {"float8_e8m0fnu", at::kFloat8_e8m0fnu}, {"complex64", at::kComplexFloat}, {"complex128", at::kComplexDouble},
};

inline std::optional<at::ScalarType> dtypeNamed(const std::string& name) {
  for (auto& d : kDtypes)
    if (name == d.name) return d.type;
  return std::nullopt;
}

inline std::string dtypeName(at::ScalarType type) {
  for (auto& d : kDtypes)
    if (type == d.type) return d.name;
  return c10::toString(type);
}

}  // namespace massif

// The few lines of Node-API that every file of the binding needs: strings, numbers, errors, call frames.
#pragma once
#define NAPI_VERSION 9
#include <node_api.h>

#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

namespace massif {

/// An error with a stable code (`torch.argument`, `torch.disposed`, …), thrown to JavaScript as TorchError.
struct CodedError : std::runtime_error {
  std::string code;
  CodedError(std::string code, const std::string& what) : std::runtime_error(what), code(std::move(code)) {}
};

[[noreturn]] inline void bad(const std::string& what) { throw CodedError("torch.argument", what); }

inline void check(napi_status status) {
  if (status != napi_ok) throw CodedError("torch.napi", "Node-API call failed with status " + std::to_string(status));
}

/// One call from JavaScript: its arguments, and the pointer that was bound to the function.
struct Call {
  static constexpr size_t kInline = 8;  // Node-API fills what is not given with undefined, so room for many costs time
  napi_env env;
  size_t count = kInline;
  napi_value inlined[kInline];
  std::vector<napi_value> overflow;
  napi_value* args = inlined;
  void* data = nullptr;

  Call(napi_env env, napi_callback_info info) : env(env) {
    check(napi_get_cb_info(env, info, &count, inlined, nullptr, &data));
    if (count <= kInline) return;
    overflow.resize(count);
    args = overflow.data();
    check(napi_get_cb_info(env, info, &count, args, nullptr, &data));
  }
  napi_value operator[](size_t i) const {
    if (i >= count) bad("argument " + std::to_string(i) + " is missing");
    return args[i];
  }
};

inline napi_valuetype typeOf(napi_env env, napi_value v) {
  napi_valuetype t;
  check(napi_typeof(env, v, &t));
  return t;
}

inline bool isNil(napi_env env, napi_value v) {
  auto t = typeOf(env, v);
  return t == napi_undefined || t == napi_null;
}

inline std::string toString(napi_env env, napi_value v) {
  size_t n;
  if (napi_get_value_string_utf8(env, v, nullptr, 0, &n) != napi_ok) bad("expected a string");
  std::string s(n, 0);
  check(napi_get_value_string_utf8(env, v, s.data(), n + 1, &n));
  return s;
}

inline double toDouble(napi_env env, napi_value v) {
  double d;
  if (napi_get_value_double(env, v, &d) != napi_ok) bad("expected a number");
  return d;
}

inline bool toBool(napi_env env, napi_value v) {
  bool b;
  if (napi_get_value_bool(env, v, &b) != napi_ok) bad("expected a boolean");
  return b;
}

/// A whole number given as number or bigint.
inline int64_t toInt(napi_env env, napi_value v) {
  if (typeOf(env, v) == napi_bigint) {
    int64_t i;
    bool lossless;
    check(napi_get_value_bigint_int64(env, v, &i, &lossless));
    if (!lossless) bad("expected a 64-bit integer");
    return i;
  }
  double d = toDouble(env, v);
  if (d != std::floor(d) || std::fabs(d) > 9007199254740992.0) bad("expected an integer, found " + std::to_string(d));
  return static_cast<int64_t>(d);
}

inline uint32_t arrayLength(napi_env env, napi_value v) {
  uint32_t n;
  if (napi_get_array_length(env, v, &n) != napi_ok) bad("expected an array");
  return n;
}

inline napi_value element(napi_env env, napi_value array, uint32_t i) {
  napi_value v;
  check(napi_get_element(env, array, i, &v));
  return v;
}

inline napi_value fromDouble(napi_env env, double d) {
  napi_value v;
  check(napi_create_double(env, d, &v));
  return v;
}

inline napi_value fromBool(napi_env env, bool b) {
  napi_value v;
  check(napi_get_boolean(env, b, &v));
  return v;
}

inline napi_value fromString(napi_env env, const std::string& s) {
  napi_value v;
  check(napi_create_string_utf8(env, s.data(), s.size(), &v));
  return v;
}

inline napi_value null(napi_env env) {
  napi_value v;
  check(napi_get_null(env, &v));
  return v;
}

inline napi_value newArray(napi_env env, size_t n) {
  napi_value v;
  check(napi_create_array_with_length(env, n, &v));
  return v;
}

inline napi_value newObject(napi_env env) {
  napi_value v;
  check(napi_create_object(env, &v));
  return v;
}

inline void set(napi_env env, napi_value object, const char* key, napi_value value) {
  check(napi_set_named_property(env, object, key, value));
}

/// Throws `code` and `message` to JavaScript through the factory that `setErrorFactory` was given.
void throwToJs(napi_env env, const std::string& code, const std::string& message);
/// The same as a value, for a promise's rejection.
napi_value makeError(napi_env env, const std::string& code, const std::string& message);
/// What is in flight (call inside `catch (...)`) as code and message.
std::pair<std::string, std::string> describeError();

using Body = napi_value (*)(Call&);

/// A function for JavaScript: C++ exceptions become TorchErrors; a null result becomes `undefined`.
template <Body body>
napi_value guarded(napi_env env, napi_callback_info info) {
  try {
    Call call(env, info);
    return body(call);
  } catch (...) {
    auto [code, message] = describeError();
    throwToJs(env, code, message);
    return nullptr;
  }
}

/// The same, with the function's name before what went wrong.
template <Body body>
napi_value named(Call& call) {
  try {
    return body(call);
  } catch (const CodedError& e) {
    throw CodedError(e.code, static_cast<const char*>(call.data) + std::string(": ") + e.what());
  }
}

/// Defines a function of the add-on. `name` must live as long as the process.
template <Body body>
void define(napi_env env, napi_value exports, const char* name) {
  napi_value f;
  check(napi_create_function(env, name, NAPI_AUTO_LENGTH, guarded<named<body>>, const_cast<char*>(name), &f));
  set(env, exports, name, f);
}

}  // namespace massif

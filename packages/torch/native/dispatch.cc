// Every operator that libtorch knows, called by its schema through the boxed dispatcher: arguments are converted as the
// schema says, so no operator needs a line of its own. Overloads are chosen in TypeScript (src/overloads.ts).
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/Layout.h>
#include <c10/core/MemoryFormat.h>
#include <c10/util/ScopeExit.h>
#include <torch/csrc/jit/frontend/function_schema_parser.h>

#include "dtypes.h"
#include "handles.h"

namespace massif {
namespace {

using Kind = c10::TypeKind;

/// What is needed to convert one argument, read from the schema once.
struct Argument {
  std::string name;
  Kind kind;
  Kind element = Kind::AnyType;
  bool optional = false, optionalElement = false;
  int32_t length = 0;  // int[2]: a lone number is repeated
  std::optional<c10::IValue> fallback;
};

struct Operator {
  c10::OperatorHandle handle;
  std::vector<Argument> arguments;
  std::vector<bool> returnsInput;  // in-place and out= results: TypeScript hands back the object it passed
};

std::deque<Operator> operators;

c10::TypePtr unwrap(c10::TypePtr type, bool& optional) {
  if (type->kind() != Kind::OptionalType) return type;
  optional = true;
  return type->castRaw<c10::OptionalType>()->getElementType();
}

Operator describe(const c10::OperatorHandle& handle) {
  Operator op{handle, {}, {}};
  for (auto& a : handle.schema().arguments()) {
    Argument arg{a.name()};
    auto type = unwrap(a.type(), arg.optional);
    arg.kind = type->kind();
    if (arg.kind == Kind::ListType)
      arg.element = unwrap(type->castRaw<c10::ListType>()->getElementType(), arg.optionalElement)->kind();
    if (a.N()) arg.length = *a.N();
    if (a.default_value()) arg.fallback = *a.default_value();
    op.arguments.push_back(std::move(arg));
  }
  for (auto& r : handle.schema().returns()) op.returnsInput.push_back(r.alias_info() && r.alias_info()->isWrite());
  return op;
}

int64_t toIntOrName(napi_env env, napi_value v) {
  if (typeOf(env, v) != napi_string) return toInt(env, v);
  auto name = toString(env, v);
  if (auto dtype = dtypeNamed(name)) return static_cast<int64_t>(*dtype);
  if (name == "strided") return static_cast<int64_t>(at::kStrided);
  if (name == "sparse_coo") return static_cast<int64_t>(at::kSparse);
  if (name == "contiguous_format") return static_cast<int64_t>(at::MemoryFormat::Contiguous);
  if (name == "preserve_format") return static_cast<int64_t>(at::MemoryFormat::Preserve);
  if (name == "channels_last") return static_cast<int64_t>(at::MemoryFormat::ChannelsLast);
  bad("'" + name + "' is no dtype, layout or memory format");
}

at::Scalar toScalar(napi_env env, napi_value v) {
  switch (typeOf(env, v)) {
    case napi_boolean: return toBool(env, v);
    case napi_bigint: return toInt(env, v);
    default: break;
  }
  double d = toDouble(env, v);
  if (d == std::floor(d) && std::fabs(d) < 9e15 && !(d == 0 && std::signbit(d))) return static_cast<int64_t>(d);
  return d;
}

template <class T, class F>
c10::IValue toList(uint32_t n, F&& at) {
  c10::List<T> list;
  list.reserve(n);
  for (uint32_t i = 0; i < n; i++) list.push_back(at(i));
  return list;
}

c10::IValue listArgument(napi_env env, napi_value v, const Argument& arg) {
  bool isArray;
  check(napi_is_array(env, v, &isArray));
  if (!isArray && !arg.length) bad("expected an array");
  uint32_t n = isArray ? arrayLength(env, v) : arg.length;
  auto at = [&](uint32_t i) { return isArray ? element(env, v, i) : v; };
  switch (arg.element) {
    case Kind::IntType:
    case Kind::SymIntType: return toList<int64_t>(n, [&](uint32_t i) { return toInt(env, at(i)); });
    case Kind::FloatType: return toList<double>(n, [&](uint32_t i) { return toDouble(env, at(i)); });
    case Kind::BoolType: return toList<bool>(n, [&](uint32_t i) { return toBool(env, at(i)); });
    case Kind::NumberType: return toList<at::Scalar>(n, [&](uint32_t i) { return toScalar(env, at(i)); });
    case Kind::StringType: return toList<std::string>(n, [&](uint32_t i) { return toString(env, at(i)); });
    case Kind::TensorType:
      if (!arg.optionalElement) return toList<at::Tensor>(n, [&](uint32_t i) { return tensorOf(env, at(i)); });
      return toList<std::optional<at::Tensor>>(n, [&](uint32_t i) -> std::optional<at::Tensor> {
        napi_value x = at(i);
        if (isNil(env, x)) return std::nullopt;
        return tensorOf(env, x);
      });
    default: bad("lists of this type cannot be passed from JavaScript");
  }
}

c10::IValue toIValue(napi_env env, napi_value v, const Argument& arg) {
  if (arg.kind == Kind::TensorType && !arg.optional) return tensorOf(env, v);
  auto type = typeOf(env, v);
  if (type == napi_undefined && arg.fallback) return *arg.fallback;
  if (type == napi_undefined || type == napi_null) {
    if (arg.optional) return {};
    bad("is required");
  }
  switch (arg.kind) {
    case Kind::TensorType: return tensorOf(env, v);
    case Kind::IntType:
    case Kind::SymIntType: return toIntOrName(env, v);
    case Kind::FloatType: return toDouble(env, v);
    case Kind::BoolType: return toBool(env, v);
    case Kind::NumberType: return toScalar(env, v);
    case Kind::StringType: return toString(env, v);
    case Kind::DeviceObjType: return c10::Device(toString(env, v));
    case Kind::ListType: return listArgument(env, v, arg);
    default: bad("this type cannot be passed from JavaScript");
  }
}

napi_value fromIValue(napi_env env, const c10::IValue& value) {
  if (value.isTensor()) return handleOrNull(env, value.toTensor());
  if (value.isInt()) return fromDouble(env, static_cast<double>(value.toInt()));
  if (value.isDouble()) return fromDouble(env, value.toDouble());
  if (value.isBool()) return fromBool(env, value.toBool());
  if (value.isString()) return fromString(env, value.toStringRef());
  if (value.isScalar()) return fromDouble(env, value.toScalar().toDouble());
  if (value.isNone()) return null(env);
  if (value.isTensorList()) return handlesOf(env, value.toTensorVector());
  if (value.isList() || value.isTuple()) {
    std::vector<c10::IValue> items;
    if (value.isList()) for (const c10::IValue& x : value.toListRef()) items.push_back(x);
    else items = value.toTupleRef().elements().vec();
    napi_value out = newArray(env, items.size());
    for (size_t i = 0; i < items.size(); i++) check(napi_set_element(env, out, i, fromIValue(env, items[i])));
    return out;
  }
  throw CodedError("torch.argument", "a result of type " + value.tagKind() + " cannot be passed to JavaScript");
}

/// The body of every operator: tensors arrive as handles, in the schema's order, keywords already in place.
napi_value callOperator(Call& call) {
  auto& op = *static_cast<Operator*>(call.data);
  if (call.count > op.arguments.size())
    bad(op.handle.schema().name() + ": takes " + std::to_string(op.arguments.size()) + " arguments, found " +
        std::to_string(call.count));
  static torch::jit::Stack stack;  // one JavaScript thread calls, and operators never call back: its memory is reused
  auto clear = c10::make_scope_exit([] { stack.clear(); });  // holds no tensor alive between calls
  for (size_t i = 0; i < op.arguments.size(); i++) {
    auto& arg = op.arguments[i];
    if (i >= call.count) {
      if (arg.fallback) stack.push_back(*arg.fallback);
      else if (arg.optional) stack.emplace_back();
      else bad(op.handle.schema().name() + ": '" + arg.name + "' is required");
      continue;
    }
    try {
      stack.push_back(toIValue(call.env, call.args[i], arg));
    } catch (const CodedError& e) {
      throw CodedError(e.code, op.handle.schema().name() + ": '" + arg.name + "': " + e.what());
    }
  }
  op.handle.callBoxed(stack);
  if (stack.empty()) return nullptr;
  if (stack.size() == 1) {
    if (op.returnsInput[0]) return nullptr;
    if (!stack[0].isTensor()) return fromIValue(call.env, stack[0]);
    auto result = std::move(stack[0]).toTensor();
    return result.defined() ? handleOf(call.env, std::move(result)) : null(call.env);
  }
  napi_value out = newArray(call.env, stack.size());
  for (size_t i = 0; i < stack.size(); i++)
    check(napi_set_element(call.env, out, i, op.returnsInput[i] ? null(call.env) : fromIValue(call.env, stack[i])));
  return out;
}

/// Which input a write-aliased result is, as an argument index; -1 when the result is new.
int aliasedInput(const c10::FunctionSchema& schema, const c10::Argument& result) {
  if (!result.alias_info() || !result.alias_info()->isWrite()) return -1;
  for (size_t i = 0; i < schema.arguments().size(); i++) {
    auto info = schema.arguments()[i].alias_info();
    if (info && info->isWrite() && info->beforeSets() == result.alias_info()->beforeSets()) return static_cast<int>(i);
  }
  return -1;
}

napi_value describeSchema(napi_env env, const c10::OperatorHandle& handle) {
  auto& schema = handle.schema();
  napi_value out = newObject(env), args = newArray(env, schema.arguments().size()),
             aliases = newArray(env, schema.returns().size()), returns = newArray(env, schema.returns().size());
  for (size_t i = 0; i < schema.arguments().size(); i++) {
    auto& a = schema.arguments()[i];
    napi_value arg = newObject(env);
    set(env, arg, "name", fromString(env, a.name()));
    set(env, arg, "type", fromString(env, a.real_type()->str()));
    set(env, arg, "keyword", fromBool(env, a.kwarg_only()));
    set(env, arg, "optional", fromBool(env, a.default_value().has_value()));
    set(env, arg, "length", fromDouble(env, a.N() ? *a.N() : 0));
    check(napi_set_element(env, args, i, arg));
  }
  for (size_t i = 0; i < schema.returns().size(); i++) {
    check(napi_set_element(env, aliases, i, fromDouble(env, aliasedInput(schema, schema.returns()[i]))));
    check(napi_set_element(env, returns, i, fromString(env, schema.returns()[i].real_type()->str())));
  }
  set(env, out, "overload", fromString(env, schema.overload_name()));
  set(env, out, "args", args);
  set(env, out, "aliases", aliases);
  set(env, out, "returns", returns);
  return out;
}

/// overloads("aten::add") → [{ overload, args, aliases, returns }]
napi_value overloads(Call& call) {
  static std::unordered_map<std::string, std::vector<std::string>> byName = [] {
    std::unordered_map<std::string, std::vector<std::string>> map;
    for (auto& found : c10::Dispatcher::singleton().getAllOpNames()) map[found.name].push_back(found.overload_name);
    return map;
  }();
  auto name = toString(call.env, call[0]);
  napi_value out = newArray(call.env, 0);
  uint32_t n = 0;
  for (auto& overload : byName[name])
    if (auto handle = c10::Dispatcher::singleton().findSchema({name, overload}))
      check(napi_set_element(call.env, out, n++, describeSchema(call.env, *handle)));
  return out;
}

/// operator("aten::add", "Tensor") → a function that takes the arguments in the schema's order
napi_value bindOperator(Call& call) {
  auto name = toString(call.env, call[0]), overload = toString(call.env, call[1]);
  auto handle = c10::Dispatcher::singleton().findSchema({name, overload});
  if (!handle) bad("libtorch has no operator " + name + (overload.empty() ? "" : "." + overload));
  operators.push_back(describe(*handle));
  napi_value f;
  check(napi_create_function(call.env, name.c_str(), name.size(), guarded<callOperator>, &operators.back(), &f));
  return f;
}

/// Every operator with a schema, as "namespace::name" (an entry an overload).
napi_value operatorNames(Call& call) {
  auto names = c10::Dispatcher::singleton().getAllOpNames();
  napi_value out = newArray(call.env, names.size());
  for (size_t i = 0; i < names.size(); i++)
    check(napi_set_element(call.env, out, i, fromString(call.env, names[i].name)));
  return out;
}

}  // namespace

void defineDispatch(napi_env env, napi_value exports) {
  define<overloads>(env, exports, "overloads");
  define<bindOperator>(env, exports, "operator");
  define<operatorNames>(env, exports, "operatorNames");
}

}  // namespace massif

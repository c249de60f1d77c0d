// What a tensor is and what is in it: shape, dtype, device, bytes in and out.
#include <ATen/ATen.h>

#include "dtypes.h"
#include "handles.h"

namespace massif {
namespace {

napi_value shape(Call& call) {
  auto sizes = tensorOf(call.env, call[0]).sizes();
  napi_value out = newArray(call.env, sizes.size());
  for (size_t i = 0; i < sizes.size(); i++)
    check(napi_set_element(call.env, out, i, fromDouble(call.env, static_cast<double>(sizes[i]))));
  return out;
}

napi_value dtype(Call& call) { return fromString(call.env, dtypeName(tensorOf(call.env, call[0]).scalar_type())); }

napi_value device(Call& call) { return fromString(call.env, tensorOf(call.env, call[0]).device().str()); }

napi_value numel(Call& call) { return fromDouble(call.env, static_cast<double>(tensorOf(call.env, call[0]).numel())); }

napi_value itemSize(Call& call) {
  return fromDouble(call.env, static_cast<double>(tensorOf(call.env, call[0]).element_size()));
}

struct Bytes {
  uint8_t* data;
  size_t size;
};

Bytes bytesOfTypedArray(napi_env env, napi_value v) {
  napi_typedarray_type type;
  size_t length;
  void* data;
  if (napi_get_typedarray_info(env, v, &type, &length, &data, nullptr, nullptr) != napi_ok) bad("expected a typed array");
  if (type != napi_uint8_array) bad("expected the bytes as a Uint8Array");
  return {static_cast<uint8_t*>(data), length};
}

/// fromBytes(Uint8Array, dtype, shape) → a CPU tensor with a copy of the bytes (little-endian, row-major)
napi_value fromBytes(Call& call) {
  auto bytes = bytesOfTypedArray(call.env, call[0]);
  auto name = toString(call.env, call[1]);
  auto type = dtypeNamed(name);
  if (!type) bad("'" + name + "' is no dtype");
  std::vector<int64_t> sizes(arrayLength(call.env, call[2]));
  for (uint32_t i = 0; i < sizes.size(); i++) sizes[i] = toInt(call.env, element(call.env, call[2], i));
  auto out = at::empty(sizes, *type);
  if (out.nbytes() != bytes.size)
    bad("the shape needs " + std::to_string(out.nbytes()) + " bytes, the data has " + std::to_string(bytes.size));
  if (bytes.size) std::memcpy(out.data_ptr(), bytes.data, bytes.size);
  return handleOf(call.env, out);
}

/// toBytes(tensor) → its elements as bytes in an ArrayBuffer, row-major, from whatever device
napi_value toBytes(Call& call) {
  auto tensor = tensorOf(call.env, call[0]).detach().to(at::kCPU).contiguous();
  void* data;
  napi_value out;
  check(napi_create_arraybuffer(call.env, tensor.nbytes(), &data, &out));
  if (tensor.nbytes()) std::memcpy(data, tensor.data_ptr(), tensor.nbytes());
  return out;
}

/// copyFromBytes(tensor, Uint8Array): overwrites a contiguous CPU tensor in place, as autograd should know
napi_value copyFromBytes(Call& call) {
  auto& tensor = tensorOf(call.env, call[0]);
  auto bytes = bytesOfTypedArray(call.env, call[1]);
  if (!tensor.is_cpu() || !tensor.is_contiguous()) bad("expected a contiguous CPU tensor");
  if (tensor.nbytes() != bytes.size)
    bad("the tensor has " + std::to_string(tensor.nbytes()) + " bytes, the data " + std::to_string(bytes.size));
  if (bytes.size) std::memcpy(tensor.data_ptr(), bytes.data, bytes.size);
  tensor.unsafeGetTensorImpl()->bump_version();
  return nullptr;
}

}  // namespace

void defineData(napi_env env, napi_value exports) {
  define<shape>(env, exports, "shape");
  define<dtype>(env, exports, "dtype");
  define<device>(env, exports, "device");
  define<numel>(env, exports, "numel");
  define<itemSize>(env, exports, "itemSize");
  define<fromBytes>(env, exports, "fromBytes");
  define<toBytes>(env, exports, "toBytes");
  define<copyFromBytes>(env, exports, "copyFromBytes");
}

}  // namespace massif

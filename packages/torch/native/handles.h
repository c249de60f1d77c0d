// Tensors are numbers in JavaScript: slot | generation << 24, exact in a double. A handle that was disposed has an old
// generation, so it is an error and never another tensor. A call costs no object wrap and no finalizer.
#pragma once
#include <ATen/core/Tensor.h>

#include "napi.h"

namespace massif {

/// The tensor behind a handle; throws `torch.disposed` for one that is disposed, `torch.argument` for no handle.
const at::Tensor& tensorOf(napi_env env, napi_value handle);
/// A new handle that holds `tensor`.
napi_value handleOf(napi_env env, at::Tensor tensor);
/// A handle, or null for an undefined tensor.
napi_value handleOrNull(napi_env env, const at::Tensor& tensor);
std::vector<at::Tensor> tensorsOf(napi_env env, napi_value arrayOfHandles);
napi_value handlesOf(napi_env env, const std::vector<at::Tensor>& tensors);
void defineHandles(napi_env env, napi_value exports);

}  // namespace massif

// Gradients: grad mode, leaves, and the engine, on this thread or on a worker so that the event loop stays free.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "handles.h"

namespace massif {
namespace {

napi_value requiresGrad(Call& call) {
  auto& tensor = tensorOf(call.env, call[0]);
  if (call.count > 1) tensor.set_requires_grad(toBool(call.env, call[1]));
  return fromBool(call.env, tensor.requires_grad());
}

napi_value isLeaf(Call& call) { return fromBool(call.env, tensorOf(call.env, call[0]).is_leaf()); }

napi_value gradOf(Call& call) { return handleOrNull(call.env, tensorOf(call.env, call[0]).grad()); }

napi_value setGrad(Call& call) {
  auto& tensor = tensorOf(call.env, call[0]);
  auto grad = isNil(call.env, call[1]) ? at::Tensor() : tensorOf(call.env, call[1]);
  if (grad.defined())
    TORCH_CHECK(grad.sizes() == tensor.sizes() && grad.scalar_type() == tensor.scalar_type() &&
                    grad.device() == tensor.device(),
                "the gradient is ", grad.toString(), " ", grad.sizes(), ", the tensor ", tensor.toString(), " ",
                tensor.sizes());
  tensor.mutable_grad() = grad;
  return nullptr;
}

/// gradMode() → whether operations are recorded; gradMode(on) sets it for this thread and returns what it was
napi_value gradMode(Call& call) {
  bool was = c10::GradMode::is_enabled();
  if (call.count) c10::GradMode::set_enabled(toBool(call.env, call[0]));
  return fromBool(call.env, was);
}

/// One run of the engine. With inputs: their gradients. Without: accumulated into `.grad` of the leaves.
struct Backward {
  std::vector<at::Tensor> outputs, inputs, gradOutputs, result;
  bool accumulate, retainGraph, createGraph, allowUnused;

  /// (outputs, inputs | null, gradOutputs | null, retainGraph, createGraph, allowUnused)
  explicit Backward(Call& call)
      : outputs(tensorsOf(call.env, call[0])),
        accumulate(isNil(call.env, call[1])),
        retainGraph(toBool(call.env, call[3])),
        createGraph(toBool(call.env, call[4])),
        allowUnused(toBool(call.env, call[5])) {
    if (!accumulate) inputs = tensorsOf(call.env, call[1]);
    if (!isNil(call.env, call[2])) gradOutputs = tensorsOf(call.env, call[2]);
  }

  void run() {
    if (accumulate) torch::autograd::backward(outputs, gradOutputs, retainGraph, createGraph);
    else result = torch::autograd::grad(outputs, inputs, gradOutputs, retainGraph, createGraph, allowUnused);
    outputs.clear();  // the graph is freed on the thread that ran it
    inputs.clear();
    gradOutputs.clear();
  }
};

napi_value grad(Call& call) {
  Backward work(call);
  work.run();
  return handlesOf(call.env, work.result);
}

struct AsyncBackward {
  Backward work;
  napi_async_work item = nullptr;
  napi_deferred deferred = nullptr;
  std::pair<std::string, std::string> error;
};

napi_value gradAsync(Call& call) {
  auto* job = new AsyncBackward{Backward(call)};
  napi_value promise;
  check(napi_create_promise(call.env, &job->deferred, &promise));
  auto execute = [](napi_env, void* data) {
    auto* job = static_cast<AsyncBackward*>(data);
    try {
      c10::GradMode::set_enabled(job->work.createGraph);  // thread-local: what this pool thread was left with is unknown
      job->work.run();
    } catch (...) {
      job->error = describeError();
    }
  };
  auto complete = [](napi_env env, napi_status, void* data) {
    auto* job = static_cast<AsyncBackward*>(data);
    if (job->error.first.empty()) napi_resolve_deferred(env, job->deferred, handlesOf(env, job->work.result));
    else napi_reject_deferred(env, job->deferred, makeError(env, job->error.first, job->error.second));
    napi_delete_async_work(env, job->item);
    delete job;
  };
  check(napi_create_async_work(call.env, nullptr, fromString(call.env, "massif.backward"), execute, complete, job, &job->item));
  check(napi_queue_async_work(call.env, job->item));
  return promise;
}

}  // namespace

void defineAutograd(napi_env env, napi_value exports) {
  define<requiresGrad>(env, exports, "requiresGrad");
  define<isLeaf>(env, exports, "isLeaf");
  define<gradOf>(env, exports, "gradOf");
  define<setGrad>(env, exports, "setGrad");
  define<gradMode>(env, exports, "gradMode");
  define<grad>(env, exports, "grad");
  define<gradAsync>(env, exports, "gradAsync");
}

}  // namespace massif

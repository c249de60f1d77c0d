// The add-on: errors, facts about the machine, and the tables of the other files.
#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/version.h>

#include <atomic>

#include "handles.h"

namespace massif {

void defineDispatch(napi_env env, napi_value exports);
void defineData(napi_env env, napi_value exports);
void defineAutograd(napi_env env, napi_value exports);
void defineProfile(napi_env env, napi_value exports);

namespace {

napi_ref errorFactory = nullptr;

/// setErrorFactory((code, message) => Error): how errors of this add-on are made
napi_value setErrorFactory(Call& call) {
  check(napi_create_reference(call.env, call[0], 1, &errorFactory));
  return nullptr;
}

/// threads() → how many threads an operator uses; threads(n) sets it
napi_value threads(Call& call) {
  if (call.count) at::set_num_threads(static_cast<int>(toInt(call.env, call[0])));
  return fromDouble(call.env, at::get_num_threads());
}

napi_value manualSeed(Call& call) {
  at::manual_seed(static_cast<uint64_t>(toInt(call.env, call[0])));
  return nullptr;
}

at::Generator& generatorOf(napi_env env, napi_value device) {
  return const_cast<at::Generator&>(at::globalContext().defaultGenerator(c10::Device(toString(env, device))));
}

/// rngState(device) → the state of its default generator, a uint8 tensor; rngState(device, state) sets it
napi_value rngState(Call& call) {
  auto& generator = generatorOf(call.env, call[0]);
  std::lock_guard<std::mutex> lock(generator.mutex());
  if (call.count == 1) return handleOf(call.env, generator.get_state());
  generator.set_state(tensorOf(call.env, call[1]));
  return nullptr;
}

napi_value deterministic(Call& call) {
  at::globalContext().setDeterministicAlgorithms(toBool(call.env, call[0]), false);
  return nullptr;
}

napi_value info(Call& call) {
  auto env = call.env;
  napi_value out = newObject(env);
  set(env, out, "torch", fromString(env, TORCH_VERSION));
  set(env, out, "cpu", fromString(env, at::get_cpu_capability()));
  set(env, out, "parallel", fromString(env, at::get_parallel_info()));
  set(env, out, "cuda", fromBool(env, at::hasCUDA()));
  set(env, out, "mps", fromBool(env, at::hasMPS()));
  auto accelerator = at::getAccelerator(false);
  bool usable = accelerator && at::accelerator::deviceCount() > 0;
  set(env, out, "accelerator", usable ? fromString(env, c10::DeviceTypeName(*accelerator, true)) : null(env));
  set(env, out, "devices", fromDouble(env, usable ? at::accelerator::deviceCount() : 0));
  return out;
}

/// Waits until the accelerator has done what was asked of it; nothing on the CPU.
napi_value synchronize(Call& call) {
  if (at::getAccelerator(false) && at::accelerator::deviceCount() > 0)
    at::accelerator::synchronizeDevice(at::accelerator::getDeviceIndex());
  return nullptr;
}

napi_value emptyCache(Call& call) {
  if (at::getAccelerator(false) && at::accelerator::deviceCount() > 0) at::accelerator::emptyCache();
  return nullptr;
}

}  // namespace

napi_value makeError(napi_env env, const std::string& code, const std::string& message) {
  napi_value factory, self, out, args[2] = {fromString(env, code), fromString(env, message)};
  if (errorFactory && napi_get_reference_value(env, errorFactory, &factory) == napi_ok &&
      napi_get_undefined(env, &self) == napi_ok && napi_call_function(env, self, factory, 2, args, &out) == napi_ok)
    return out;
  check(napi_create_error(env, args[0], args[1], &out));
  return out;
}

void throwToJs(napi_env env, const std::string& code, const std::string& message) {
  napi_throw(env, makeError(env, code, message));
}

std::pair<std::string, std::string> describeError() {
  try {
    throw;
  } catch (const CodedError& e) {
    return {e.code, e.what()};
  } catch (const c10::OutOfMemoryError& e) {
    return {"torch.memory", e.what_without_backtrace()};
  } catch (const c10::Error& e) {
    return {"torch.aten", e.what_without_backtrace()};
  } catch (const std::bad_alloc&) {
    return {"torch.memory", "out of memory"};
  } catch (const std::exception& e) {
    return {"torch.aten", e.what()};
  } catch (...) {
    return {"torch.aten", "unknown C++ exception"};
  }
}

}  // namespace massif

// Handles and the grad mode belong to the thread that loads the add-on: it works on one thread of a process.
NAPI_MODULE_INIT() {
  using namespace massif;
  static std::atomic<napi_env> owner = nullptr;
  napi_env nobody = nullptr;
  if (!owner.compare_exchange_strong(nobody, env)) {
    napi_throw_error(env, "torch.thread", "libtorch is in use on another thread of this process");
    return nullptr;
  }
  napi_add_env_cleanup_hook(env, [](void*) { owner = nullptr; }, nullptr);
  define<setErrorFactory>(env, exports, "setErrorFactory");
  define<threads>(env, exports, "threads");
  define<manualSeed>(env, exports, "manualSeed");
  define<rngState>(env, exports, "rngState");
  define<deterministic>(env, exports, "deterministic");
  define<info>(env, exports, "info");
  define<synchronize>(env, exports, "synchronize");
  define<emptyCache>(env, exports, "emptyCache");
  defineHandles(env, exports);
  defineDispatch(env, exports);
  defineData(env, exports);
  defineAutograd(env, exports);
  defineProfile(env, exports);
  return exports;
}

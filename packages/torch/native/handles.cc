#include "handles.h"

#include <deque>
#include <unordered_set>

namespace massif {
namespace {

constexpr uint64_t kSlotBits = 24, kSlotMask = (1 << kSlotBits) - 1, kGenerations = 1 << 29;

struct Slot {
  at::Tensor tensor;
  uint32_t generation = 0;
};

std::deque<Slot> slots;
std::vector<uint32_t> freeSlots;
int64_t liveTensors = 0;

Slot& slotOf(napi_env env, napi_value v) {
  double d;
  if (napi_get_value_double(env, v, &d) != napi_ok) bad("expected a tensor");
  if (!(d >= 0) || d >= 9007199254740992.0) bad("expected a tensor");
  auto h = static_cast<uint64_t>(d);
  size_t i = h & kSlotMask;
  if (i >= slots.size()) bad("expected a tensor");
  Slot& slot = slots[i];
  if (slot.generation != h >> kSlotBits || !slot.tensor.defined())
    throw CodedError("torch.disposed", "the tensor was disposed (its scope ended, or dispose() was called)");
  return slot;
}

void release(Slot& slot, uint32_t index) {
  slot.tensor = at::Tensor();
  slot.generation = (slot.generation + 1) % kGenerations;
  freeSlots.push_back(index);
  liveTensors--;
}

/// The slot of a handle, or null for one that is free already.
Slot* liveSlot(double handle) {
  auto h = static_cast<uint64_t>(handle);
  size_t i = h & kSlotMask;
  if (i >= slots.size() || slots[i].generation != h >> kSlotBits || !slots[i].tensor.defined()) return nullptr;
  return &slots[i];
}

/// Frees a tensor; one that is free already is passed over.
void release(double handle) {
  if (Slot* slot = liveSlot(handle)) release(*slot, static_cast<uint64_t>(handle) & kSlotMask);
}

napi_value dispose(Call& call) {
  release(toDouble(call.env, call[0]));
  return nullptr;
}

/// disposeAll(Float64Array, n): frees the first n
napi_value disposeAll(Call& call) {
  napi_typedarray_type type;
  size_t length;
  void* data;
  check(napi_get_typedarray_info(call.env, call[0], &type, &length, &data, nullptr, nullptr));
  auto n = static_cast<size_t>(toDouble(call.env, call[1]));
  if (type != napi_float64_array || n > length) bad("disposeAll takes a Float64Array and a count");
  for (size_t i = 0; i < n; i++) release(static_cast<double*>(data)[i]);
  return nullptr;
}

napi_value isLive(Call& call) { return fromBool(call.env, liveSlot(toDouble(call.env, call[0]))); }

/// Live handles, and the bytes of the distinct storages behind them.
napi_value memory(Call& call) {
  std::unordered_set<const void*> seen;
  double bytes = 0;
  for (auto& slot : slots) {
    if (!slot.tensor.defined() || !slot.tensor.has_storage()) continue;
    auto& storage = slot.tensor.storage();
    if (seen.insert(storage.unsafeGetStorageImpl()).second) bytes += storage.nbytes();
  }
  napi_value out = newObject(call.env);
  set(call.env, out, "tensors", fromDouble(call.env, liveTensors));
  set(call.env, out, "bytes", fromDouble(call.env, bytes));
  return out;
}

/// Tells V8 of a tensor that only the garbage collector will free (one made outside every scope); returns its bytes.
napi_value track(Call& call) {
  auto& tensor = tensorOf(call.env, call[0]);
  int64_t bytes = tensor.has_storage() ? static_cast<int64_t>(tensor.storage().nbytes()) : 0, total;
  check(napi_adjust_external_memory(call.env, bytes, &total));
  return fromDouble(call.env, bytes);
}

napi_value untrack(Call& call) {
  int64_t total;
  check(napi_adjust_external_memory(call.env, -static_cast<int64_t>(toDouble(call.env, call[0])), &total));
  return nullptr;
}

}  // namespace

const at::Tensor& tensorOf(napi_env env, napi_value handle) { return slotOf(env, handle).tensor; }

napi_value handleOf(napi_env env, at::Tensor tensor) {
  uint32_t i;
  if (freeSlots.empty()) {
    i = slots.size();
    if (i > kSlotMask) throw CodedError("torch.leak", "16.7 million live tensors: nothing disposes of them");
    slots.emplace_back();
  } else {
    i = freeSlots.back();
    freeSlots.pop_back();
  }
  slots[i].tensor = std::move(tensor);
  liveTensors++;
  return fromDouble(env, static_cast<double>(i | static_cast<uint64_t>(slots[i].generation) << kSlotBits));
}

napi_value handleOrNull(napi_env env, const at::Tensor& tensor) {
  return tensor.defined() ? handleOf(env, tensor) : null(env);
}

std::vector<at::Tensor> tensorsOf(napi_env env, napi_value array) {
  std::vector<at::Tensor> out(arrayLength(env, array));
  for (uint32_t i = 0; i < out.size(); i++) out[i] = tensorOf(env, element(env, array, i));
  return out;
}

napi_value handlesOf(napi_env env, const std::vector<at::Tensor>& tensors) {
  napi_value out = newArray(env, tensors.size());
  for (size_t i = 0; i < tensors.size(); i++) check(napi_set_element(env, out, i, handleOrNull(env, tensors[i])));
  return out;
}

void defineHandles(napi_env env, napi_value exports) {
  define<dispose>(env, exports, "dispose");
  define<disposeAll>(env, exports, "disposeAll");
  define<isLive>(env, exports, "isLive");
  define<memory>(env, exports, "memory");
  define<track>(env, exports, "track");
  define<untrack>(env, exports, "untrack");
}

}  // namespace massif

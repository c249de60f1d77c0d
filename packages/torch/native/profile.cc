// Where CPU time goes: every operator that is called from outside of operators, and every node of a backward pass.
#include <ATen/record_function.h>

#include <ctime>
#include <map>

#include "napi.h"

namespace massif {
namespace {

struct Row {
  double calls = 0, ms = 0;
};
std::map<std::string, Row> rows;
at::CallbackHandle handle = at::INVALID_CALLBACK_HANDLE;
int depth = 0;

/// CPU time of all threads so far.
double cpuMs() { return std::clock() * 1e3 / CLOCKS_PER_SEC; }

struct Began : at::ObserverContext {
  double ms = cpuMs();
};

std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction&) {
  return depth++ ? nullptr : std::make_unique<Began>();
}

void end(const at::RecordFunction& function, at::ObserverContext* context) {
  depth--;
  if (!context) return;
  Row& row = rows[function.name()];
  row.calls++;
  row.ms += cpuMs() - static_cast<Began*>(context)->ms;
}

/// watch(true) begins to count what this thread calls; watch(false) ends it → [name, calls, CPU milliseconds] of each
napi_value watch(Call& call) {
  const bool on = toBool(call.env, call[0]);
  if (handle != at::INVALID_CALLBACK_HANDLE) at::removeCallback(std::exchange(handle, at::INVALID_CALLBACK_HANDLE));
  if (on) {
    rows.clear();
    depth = 0;
    handle = at::addThreadLocalCallback(
        at::RecordFunctionCallback(begin, end).scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION}));
    return nullptr;
  }
  napi_value table = newArray(call.env, rows.size());
  uint32_t i = 0;
  for (const auto& [name, row] : rows) {
    napi_value entry = newArray(call.env, 3);
    check(napi_set_element(call.env, entry, 0, fromString(call.env, name)));
    check(napi_set_element(call.env, entry, 1, fromDouble(call.env, row.calls)));
    check(napi_set_element(call.env, entry, 2, fromDouble(call.env, row.ms)));
    check(napi_set_element(call.env, table, i++, entry));
  }
  return table;
}

}  // namespace

void defineProfile(napi_env env, napi_value exports) { define<watch>(env, exports, "watch"); }

}  // namespace massif

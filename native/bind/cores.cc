#include "cores.h"

#include "../core/cores.h"
#include "convert.h"

namespace vu::bind {
namespace {

Napi::Value keepOffCoresJs(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto items = toArray(env, info[0], "cores");
  if (!items) return env.Undefined();
  std::vector<uint32_t> cores;
  for (napi_value item : *items) {
    const auto core = toUint32(env, item, "cores");
    if (!core) return env.Undefined();
    cores.push_back(*core);
  }
  const auto kept = keepOffCores(cores);
  if (!kept) {
    throwFault(env, kept.fault());
    return env.Undefined();
  }
  return Napi::Boolean::New(env, kept.value());
}

}  // namespace

void registerCores(Napi::Env env, Napi::Object exports) {
  exports.Set("keepOffCores", Napi::Function::New(env, keepOffCoresJs, "keepOffCores"));
}

}  // namespace vu::bind

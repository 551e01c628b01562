#include "child.h"

#include "../core/child_process.h"
#include "../core/cores.h"
#include "../core/thread.h"
#include "convert.h"
#include "environment.h"

namespace vu::bind {
namespace {

const char* kindOf(ChildEnd end) {
  switch (end) {
    case ChildEnd::kExited:
      return "exited";
    case ChildEnd::kSignalled:
      return "signalled";
    case ChildEnd::kTimeout:
      return "timeout";
    case ChildEnd::kKilled:
      return "killed";
    case ChildEnd::kFlooded:
      return "flooded";
  }
  return "exited";
}

napi_value outcome(napi_env env, const ChildResult& result) {
  napi_value object = nullptr;
  napi_create_object(env, &object);
  napi_set_named_property(env, object, "kind", text(env, kindOf(result.end)));
  napi_set_named_property(env, object, "code", number(env, static_cast<uint32_t>(result.code)));
  // What was cut off is no answer, and may be as long as the limit.
  const bool whole = result.end == ChildEnd::kExited;
  napi_set_named_property(env, object, "stdout", text(env, whole ? result.output : ""));
  napi_set_named_property(env, object, "stderr", text(env, whole ? result.errors : ""));
  return object;
}

std::optional<ChildSpec> toSpec(napi_env env, napi_value object) {
  ChildSpec spec;
  const auto path = textProperty(env, object, "path");
  if (!path) return std::nullopt;
  spec.path = *path;
  const auto environment = property(env, object, "environment");
  if (!environment) return std::nullopt;
  const auto items = toArray(env, *environment, "environment");
  if (!items) return std::nullopt;
  for (napi_value item : *items) {
    const auto entry = toText(env, item, "environment");
    if (!entry) return std::nullopt;
    spec.environment.push_back(*entry);
  }
  const auto input = textProperty(env, object, "input");
  if (!input) return std::nullopt;
  spec.input = *input;
  const auto holdInput = boolProperty(env, object, "holdInput");
  if (!holdInput) return std::nullopt;
  spec.holdInput = *holdInput;
  const auto timeoutMs = uint32Property(env, object, "timeoutMs");
  if (!timeoutMs) return std::nullopt;
  spec.timeoutMs = *timeoutMs;
  const auto limit = uint32Property(env, object, "outputLimitBytes");
  if (!limit) return std::nullopt;
  spec.outputLimitBytes = *limit;
  return spec;
}

Napi::Value runChildJs(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto spec = toSpec(env, info[0]);
  if (!spec) return env.Undefined();
  const auto made = ChildControl::create();
  if (!made) {
    throwFault(env, made.fault());
    return env.Undefined();
  }
  const std::shared_ptr<ChildControl> control = made.value();
  const auto ended = std::make_shared<Napi::Promise::Deferred>(Napi::Promise::Deferred::New(env));
  const auto printed = std::make_shared<Napi::Promise::Deferred>(Napi::Promise::Deferred::New(env));
  const std::shared_ptr<EventPort> events = Environment::of(env).events;
  events->hold(env);
  // THREAD: of its own, for as long as the child runs.
  Result<Thread> thread =
      Thread::start("vu-child", [spec = std::move(*spec), control, ended, printed, events]() noexcept {
        std::optional<ProgramPlace> place(std::in_place);
        bool announced = false;
        const auto onPrinted = [&](const std::string& output) {
          announced = true;
          events->post([printed, output](Napi::Env inner) { printed->Resolve(text(inner, output)); });
        };
        auto result = std::make_shared<Result<ChildResult>>(runChild(spec, *control, onPrinted));
        place.reset();  // before somebody hears of the end, and starts the next
        const std::string path = spec.path;
        events->post([result, ended, printed, announced, events, path](Napi::Env inner) {
          events->letGo(inner);
          // A promise is settled once.
          if (!announced) printed->Resolve(inner.Null());
          if (*result) {
            ended->Resolve(outcome(inner, result->value()));
          } else {
            ended->Reject(faultError(inner, result->fault(), path.c_str()));
          }
        });
      });
  if (!thread) {
    events->letGo(env);
    throwFault(env, thread.fault());
    return env.Undefined();
  }
  thread.value().detach();
  Napi::Object child = Napi::Object::New(env);
  child.Set("ended", ended->Promise());
  child.Set("printed", printed->Promise());
  child.Set("kill", Napi::Function::New(
                        env, [control](const Napi::CallbackInfo&) { control->kill(); }, "kill"));
  child.Set("feed", Napi::Function::New(
                        env, [control](const Napi::CallbackInfo&) { control->feed(); }, "feed"));
  return child;
}

}  // namespace

void registerChild(Napi::Env env, Napi::Object exports) {
  exports.Set("runChild", Napi::Function::New(env, runChildJs, "runChild"));
}

}  // namespace vu::bind

// A step of libuv's thread pool wakes a thread, and the JavaScript thread when it is done. With node:fs a durable write
// is eight of them (open, write, fdatasync, close, rename; open, fsync, close); these are two.
#include "file.h"

#include <cerrno>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "../core/durable_file.h"
#include "convert.h"

namespace vu::bind {
namespace {

struct DiskWork {
  std::function<Result<void>()> body;
  std::string path;
  Result<void> result;
  napi_deferred deferred = nullptr;
  napi_async_work work = nullptr;
};

void execute(napi_env, void* data) {
  auto* work = static_cast<DiskWork*>(data);
  work->result = work->body();
}

// Also when the environment is going: then nobody hears of it.
void complete(napi_env env, napi_status status, void* data) {
  const std::unique_ptr<DiskWork> work(static_cast<DiskWork*>(data));
  if (status == napi_cancelled) work->result = Fault{ECANCELED, "work of the thread pool"};
  if (work->result) {
    napi_value undefined = nullptr;
    napi_get_undefined(env, &undefined);
    napi_resolve_deferred(env, work->deferred, undefined);
  } else {
    napi_reject_deferred(env, work->deferred, faultError(env, work->result.fault(), work->path.c_str()));
  }
  napi_delete_async_work(env, work->work);
}

// Runs `body` on the pool, then settles a promise. `path` is what a failure names.
Napi::Value onDisk(Napi::Env env, const std::string& path, std::function<Result<void>()> body) {
  auto work = std::make_unique<DiskWork>();
  work->body = std::move(body);
  work->path = path;
  napi_value promise = nullptr;
  napi_value name = nullptr;
  if (napi_create_promise(env, &work->deferred, &promise) != napi_ok ||
      napi_create_string_utf8(env, "virtio_user.disk", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_async_work(env, nullptr, name, execute, complete, work.get(), &work->work) != napi_ok ||
      napi_queue_async_work(env, work->work) != napi_ok) {
    throwMisuse(env, "no work can be given to the thread pool");
    return env.Undefined();
  }
  (void)work.release();  // complete() frees it
  return Napi::Value(env, promise);
}

Napi::Value replaceFileJs(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto temporary = toText(env, info[0], "temporary");
  const auto path = temporary ? toText(env, info[1], "path") : std::nullopt;
  auto contents = path ? toText(env, info[2], "contents") : std::nullopt;
  if (!contents) return env.Undefined();
  return onDisk(env, *path, [temporary = std::move(*temporary), path = *path, contents = std::move(*contents)] {
    return replaceFile(temporary, path, contents);
  });
}

Napi::Value syncDirectoryJs(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto path = toText(env, info[0], "path");
  if (!path) return env.Undefined();
  return onDisk(env, *path, [path = *path] { return syncDirectory(path); });
}

}  // namespace

void registerFile(Napi::Env env, Napi::Object exports) {
  exports.Set("replaceFile", Napi::Function::New(env, replaceFileJs, "replaceFile"));
  exports.Set("syncDirectory", Napi::Function::New(env, syncDirectoryJs, "syncDirectory"));
}

}  // namespace vu::bind

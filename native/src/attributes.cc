// SPDX-License-Identifier: Apache-2.0
// Extended attributes, and a rename that replaces nothing: what Node's fs lacks. On libuv's
// threads, as Node's own calls are; each gives a promise.
//   setAttribute(path, name, bytes) -> Promise<0 | -errno>
//   getAttribute(path, name, bytesMax) -> Promise<[count | -errno, bytes]>
//   renameNew(from, to) -> Promise<0 | -errno>; -EEXIST when `to` is there
// Links are followed by none of them.
#include <fcntl.h>
#include <stdio.h>
#include <sys/xattr.h>

#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "args.h"
#include "families.h"
#include "syscall.h"

namespace erofsd {
namespace {

// What the kernel takes (XATTR_SIZE_MAX).
constexpr int64_t kBytesMax = 65536;

class PathWorker : public Napi::AsyncWorker {
 public:
  using Work = std::function<int64_t(std::vector<uint8_t>& bytes)>;

  PathWorker(Napi::Env env, std::vector<uint8_t> bytes, bool answers_bytes, Work work)
      : Napi::AsyncWorker(env, "erofsd.attributes"),
        deferred_(Napi::Promise::Deferred::New(env)),
        bytes_(std::move(bytes)),
        answers_bytes_(answers_bytes),
        work_(std::move(work)) {}

  // The promise; the worker frees itself.
  static Napi::Value Run(Napi::Env env, std::vector<uint8_t> bytes, bool answers_bytes, Work work) {
    auto* worker = new PathWorker(env, std::move(bytes), answers_bytes, std::move(work));
    const Napi::Promise promise = worker->deferred_.Promise();
    worker->Queue();
    return promise;
  }

 protected:
  void Execute() override { result_ = work_(bytes_); }

  void OnOK() override {
    const Napi::Number result = Napi::Number::New(Env(), static_cast<double>(result_));
    if (!answers_bytes_) {
      deferred_.Resolve(result);
      return;
    }
    const size_t length = result_ > 0 ? static_cast<size_t>(result_) : 0;
    Napi::Uint8Array bytes = Napi::Uint8Array::New(Env(), length);
    if (length > 0) std::memcpy(bytes.Data(), bytes_.data(), length);
    Napi::Array answer = Napi::Array::New(Env(), 2);
    answer.Set(0U, result);
    answer.Set(1U, bytes);
    deferred_.Resolve(answer);
  }

 private:
  Napi::Promise::Deferred deferred_;
  std::vector<uint8_t> bytes_;
  const bool answers_bytes_;
  const Work work_;
  int64_t result_ = 0;
};

Napi::Value SetAttribute(const Napi::CallbackInfo& info) {
  Args args(info, "setAttribute");
  const std::string path = args.Text(0, "path");
  const std::string name = args.Text(1, "name");
  const Bytes bytes = args.Uint8Array(2, "bytes");
  if (args.failed()) return info.Env().Undefined();
  return PathWorker::Run(
      info.Env(), {bytes.data, bytes.data + bytes.length}, false,
      [path, name](const std::vector<uint8_t>& value) {
        return RetryEintr(
            [&] { return ::lsetxattr(path.c_str(), name.c_str(), value.data(), value.size(), 0); });
      });
}

Napi::Value GetAttribute(const Napi::CallbackInfo& info) {
  Args args(info, "getAttribute");
  const std::string path = args.Text(0, "path");
  const std::string name = args.Text(1, "name");
  const int64_t bytes_max = args.Integer(2, "bytesMax", 1, kBytesMax);
  if (args.failed()) return info.Env().Undefined();
  return PathWorker::Run(
      info.Env(), std::vector<uint8_t>(static_cast<size_t>(bytes_max)), true,
      [path, name](std::vector<uint8_t>& value) {
        return RetryEintr(
            [&] { return ::lgetxattr(path.c_str(), name.c_str(), value.data(), value.size()); });
      });
}

Napi::Value RenameNew(const Napi::CallbackInfo& info) {
  Args args(info, "renameNew");
  const std::string from = args.Text(0, "from");
  const std::string to = args.Text(1, "to");
  if (args.failed()) return info.Env().Undefined();
  return PathWorker::Run(info.Env(), {}, false, [from, to](const std::vector<uint8_t>&) {
    return RetryEintr([&] {
      return ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE);
    });
  });
}

}  // namespace

void ExportAttributes(Napi::Env env, Napi::Object exports) {
  exports.Set("setAttribute", Napi::Function::New(env, SetAttribute, "setAttribute"));
  exports.Set("getAttribute", Napi::Function::New(env, GetAttribute, "getAttribute"));
  exports.Set("renameNew", Napi::Function::New(env, RenameNew, "renameNew"));
}

}  // namespace erofsd

// SPDX-License-Identifier: Apache-2.0
// open(2), close(2), FD_CLOEXEC, a single write(2) and a poll(2) that does not wait, called on the
// JS thread. For devices and cache commands, which answer at once; bulk data goes through the
// writer pool.
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "args.h"
#include "families.h"
#include "syscall.h"

namespace erofsd {
namespace {

constexpr int kCreateMode = 0600;

// open(path, flags) -> fd | -errno
Napi::Value Open(const Napi::CallbackInfo& info) {
  Args args(info, "open");
  const std::string path = args.Text(0, "path");
  const int flags = static_cast<int>(args.Integer(1, "flags", 0, INT32_MAX));
  if (args.failed()) return info.Env().Undefined();
  return Result(info,
                RetryEintr([&] { return ::open(path.c_str(), flags | O_CLOEXEC, kCreateMode); }));
}

// close(fd) -> 0 | -errno
Napi::Value Close(const Napi::CallbackInfo& info) {
  Args args(info, "close");
  const int fd = args.Fd(0, "fd");
  if (args.failed()) return info.Env().Undefined();
  // Never retried: Linux has released the number even when close fails with EINTR, and by now
  // another thread may own it.
  if (::close(fd) == 0 || errno == EINTR) return Result(info, 0);
  return Result(info, -errno);
}

// closeOnExec(fd) -> 0 | -errno; for an fd that came over an exec.
Napi::Value CloseOnExec(const Napi::CallbackInfo& info) {
  Args args(info, "closeOnExec");
  const int fd = args.Fd(0, "fd");
  if (args.failed()) return info.Env().Undefined();
  return Result(info, RetryEintr([&] { return ::fcntl(fd, F_SETFD, FD_CLOEXEC); }));
}

// write(fd, bytes) -> count | -errno; one write(2), because one write is one cachefiles command.
Napi::Value Write(const Napi::CallbackInfo& info) {
  Args args(info, "write");
  const int fd = args.Fd(0, "fd");
  const Bytes bytes = args.Uint8Array(1, "bytes");
  if (args.failed()) return info.Env().Undefined();
  return Result(info, RetryEintr([&] { return ::write(fd, bytes.data, bytes.length); }));
}

// hasPriority(fd) -> 1 when it has an exceptional condition (POLLPRI), else 0 | -errno
Napi::Value HasPriority(const Napi::CallbackInfo& info) {
  Args args(info, "hasPriority");
  const int fd = args.Fd(0, "fd");
  if (args.failed()) return info.Env().Undefined();
  pollfd one = {fd, POLLPRI, 0};
  const int64_t count = RetryEintr([&] { return ::poll(&one, 1, 0); });
  if (count > 0 && (one.revents & POLLNVAL) != 0) return Result(info, -EBADF);
  return Result(info, count > 0 && (one.revents & POLLPRI) != 0 ? 1 : count < 0 ? count : 0);
}

}  // namespace

void ExportFile(Napi::Env env, Napi::Object exports) {
  exports.Set("open", Napi::Function::New(env, Open, "open"));
  exports.Set("close", Napi::Function::New(env, Close, "close"));
  exports.Set("closeOnExec", Napi::Function::New(env, CloseOnExec, "closeOnExec"));
  exports.Set("hasPriority", Napi::Function::New(env, HasPriority, "hasPriority"));
  exports.Set("write", Napi::Function::New(env, Write, "write"));
}

}  // namespace erofsd

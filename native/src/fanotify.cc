// SPDX-License-Identifier: Apache-2.0
// fanotify groups: making one, marks on open files, reading events, and the question whether
// anybody else has a file open. None of them blocks. A response is a plain write (file.cc); what
// events mean is not known here. The fds in events have FD_CLOEXEC when the group was made with
// O_CLOEXEC in its event flags; they are the caller's.
#include <fcntl.h>
#include <signal.h>
#include <sys/fanotify.h>
#include <unistd.h>

#include "args.h"
#include "families.h"
#include "syscall.h"

namespace erofsd {
namespace {

// fanotifyInit(flags, eventFlags) -> fd | -errno
Napi::Value FanotifyInit(const Napi::CallbackInfo& info) {
  Args args(info, "fanotifyInit");
  const auto flags = static_cast<unsigned>(args.Integer(0, "flags", 0, UINT32_MAX));
  const auto event_flags = static_cast<unsigned>(args.Integer(1, "eventFlags", 0, UINT32_MAX));
  if (args.failed()) return info.Env().Undefined();
  return Result(info, RetryEintr([&] { return ::fanotify_init(flags, event_flags); }));
}

// fanotifyMark(group, flags, mask, fd) -> 0 | -errno; the mark is on the file that `fd` has open.
Napi::Value FanotifyMark(const Napi::CallbackInfo& info) {
  Args args(info, "fanotifyMark");
  const int group = args.Fd(0, "group");
  const auto flags = static_cast<unsigned>(args.Integer(1, "flags", 0, UINT32_MAX));
  const auto mask = static_cast<uint64_t>(args.Integer(2, "mask", 0, kSafeIntegerMax));
  const int fd = args.Fd(3, "fd");
  if (args.failed()) return info.Env().Undefined();
  return Result(info, RetryEintr([&] { return ::fanotify_mark(group, flags, mask, fd, nullptr); }));
}

// readEvents(group, buffer) -> bytes | 0 (nothing pending) | -errno; one read(2), whole events.
Napi::Value ReadEvents(const Napi::CallbackInfo& info) {
  Args args(info, "readEvents");
  const int group = args.Fd(0, "group");
  const Bytes buffer = args.Uint8Array(1, "buffer");
  if (args.failed()) return info.Env().Undefined();
  const int64_t count = RetryEintr([&] { return ::read(group, buffer.data, buffer.length); });
  return Result(info, count == -EAGAIN ? 0 : count);
}

// isOpenElsewhere(fd) -> 1 when another open file description of fd's file exists, also one of
// the kernel's own | 0 | -errno. Asked with a write lease that is given back at once (fcntl(2)).
// Whoever opens the file in between waits for that moment; the kernel then also signals us, with
// SIGURG, which is ignored by default, instead of SIGIO, which kills.
Napi::Value IsOpenElsewhere(const Napi::CallbackInfo& info) {
  Args args(info, "isOpenElsewhere");
  const int fd = args.Fd(0, "fd");
  if (args.failed()) return info.Env().Undefined();
  int64_t result = RetryEintr([&] { return ::fcntl(fd, F_SETSIG, SIGURG); });
  if (result == 0) result = RetryEintr([&] { return ::fcntl(fd, F_SETLEASE, F_WRLCK); });
  if (result == -EAGAIN) return Result(info, 1);
  if (result == 0) result = RetryEintr([&] { return ::fcntl(fd, F_SETLEASE, F_UNLCK); });
  return Result(info, result);
}

}  // namespace

void ExportFanotify(Napi::Env env, Napi::Object exports) {
  exports.Set("fanotifyInit", Napi::Function::New(env, FanotifyInit, "fanotifyInit"));
  exports.Set("fanotifyMark", Napi::Function::New(env, FanotifyMark, "fanotifyMark"));
  exports.Set("readEvents", Napi::Function::New(env, ReadEvents, "readEvents"));
  exports.Set("isOpenElsewhere", Napi::Function::New(env, IsOpenElsewhere, "isOpenElsewhere"));
}

}  // namespace erofsd

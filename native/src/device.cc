// SPDX-License-Identifier: Apache-2.0
// /dev/cachefiles: reading one message and completing one READ. Neither blocks: with nothing
// pending the kernel's read(2) gives 0. Of the protocol only this much is known here: where an
// OPEN message carries its fd, because that fd arrives without FD_CLOEXEC and must get it before
// any other thread of the process can fork and exec.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstring>

#include "args.h"
#include "cachefiles-uapi.h"
#include "families.h"
#include "syscall.h"

namespace erofsd {
namespace {

constexpr size_t kOpcodeOffset = offsetof(cachefiles_msg, opcode);
constexpr size_t kFdOffset = sizeof(cachefiles_msg) + offsetof(cachefiles_open, fd);

uint32_t U32At(const uint8_t* data, size_t offset) {
  uint32_t value;
  std::memcpy(&value, data + offset, sizeof value);
  return value;
}

void SetCloexecOfOpen(const uint8_t* message, size_t length) {
  if (length < kFdOffset + sizeof(uint32_t)) return;
  if (U32At(message, kOpcodeOffset) != CACHEFILES_OP_OPEN) return;
  // Can only fail for a number that is no open fd, which the first use of it will tell.
  (void)::fcntl(static_cast<int>(U32At(message, kFdOffset)), F_SETFD, FD_CLOEXEC);
}

// readMessage(fd, buffer) -> bytes | 0 (nothing pending) | -errno; one read(2).
Napi::Value ReadMessage(const Napi::CallbackInfo& info) {
  Args args(info, "readMessage");
  const int fd = args.Fd(0, "fd");
  const Bytes buffer = args.Uint8Array(1, "buffer");
  if (args.failed()) return info.Env().Undefined();
  const int64_t count = RetryEintr([&] { return ::read(fd, buffer.data, buffer.length); });
  if (count > 0) SetCloexecOfOpen(buffer.data, static_cast<size_t>(count));
  return Result(info, count);
}

// readComplete(fd, msgId) -> 0 | -errno; the ioctl takes msgId by value.
Napi::Value ReadComplete(const Napi::CallbackInfo& info) {
  Args args(info, "readComplete");
  const int fd = args.Fd(0, "fd");
  const auto msg_id = static_cast<unsigned long>(args.Integer(1, "msgId", 0, UINT32_MAX));
  if (args.failed()) return info.Env().Undefined();
  return Result(info,
                RetryEintr([&] { return ::ioctl(fd, CACHEFILES_IOC_READ_COMPLETE, msg_id); }));
}

}  // namespace

void ExportDevice(Napi::Env env, Napi::Object exports) {
  exports.Set("readMessage", Napi::Function::New(env, ReadMessage, "readMessage"));
  exports.Set("readComplete", Napi::Function::New(env, ReadComplete, "readComplete"));
}

}  // namespace erofsd

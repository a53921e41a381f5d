// SPDX-License-Identifier: Apache-2.0
// What a daemon needs to follow another one: memory that outlives it (a memfd, mapped shared), and
// fd numbers that must not be given out.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "args.h"
#include "families.h"
#include "syscall.h"

namespace erofsd {
namespace {

constexpr int64_t kBytesMax = 1 << 30;

// memfdCreate(name, bytes) -> fd | -errno: zeroed memory of that size, with FD_CLOEXEC set.
Napi::Value MemfdCreate(const Napi::CallbackInfo& info) {
  Args args(info, "memfdCreate");
  const std::string name = args.Text(0, "name");
  const int64_t bytes = args.Integer(1, "bytes", 1, kBytesMax);
  if (args.failed()) return info.Env().Undefined();
  const int fd = ::memfd_create(name.c_str(), MFD_CLOEXEC);
  if (fd < 0) return Result(info, -errno);
  const int64_t result = RetryEintr([&] { return ::ftruncate(fd, bytes); });
  if (result < 0) ::close(fd);
  return Result(info, result < 0 ? result : fd);
}

void Unmap(napi_env, void* data, void* bytes) {
  ::munmap(data, reinterpret_cast<uintptr_t>(bytes));
}

// mapShared(fd) -> Uint8Array over all of the file | -errno; the fd may be closed afterwards.
Napi::Value MapShared(const Napi::CallbackInfo& info) {
  Args args(info, "mapShared");
  const int fd = args.Fd(0, "fd");
  if (args.failed()) return info.Env().Undefined();
  struct stat stat;
  if (::fstat(fd, &stat) != 0) return Result(info, -errno);
  if (stat.st_size < 1 || stat.st_size > kBytesMax) return Result(info, -EINVAL);
  const auto bytes = static_cast<size_t>(stat.st_size);
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) return Result(info, -errno);
  const napi_env env = info.Env();
  napi_value buffer = nullptr;
  napi_value array = nullptr;
  if (napi_create_external_arraybuffer(env, data, bytes, Unmap, reinterpret_cast<void*>(bytes),
                                       &buffer) != napi_ok) {
    ::munmap(data, bytes);
    return Result(info, -ENOTSUP);
  }
  if (napi_create_typedarray(env, napi_uint8_array, bytes, buffer, 0, &array) != napi_ok) {
    return Result(info, -ENOMEM);
  }
  return Napi::Value(env, array);
}

// occupyFd(number) -> 1: a placeholder has that number now, the caller's to close | 0: something
// else has it | -errno (EINVAL or EMFILE: no fd of this process can have it)
Napi::Value OccupyFd(const Napi::CallbackInfo& info) {
  Args args(info, "occupyFd");
  const int number = args.Fd(0, "number");
  if (args.failed()) return info.Env().Undefined();
  const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (null < 0) return Result(info, -errno);
  if (null == number) return Result(info, 1);
  // The lowest free number from `number` on: is it that one? Nothing that is open is closed.
  const int64_t copy = RetryEintr([&] { return ::fcntl(null, F_DUPFD_CLOEXEC, number); });
  ::close(null);
  if (copy >= 0 && copy != number) ::close(static_cast<int>(copy));
  return Result(info, copy < 0 ? copy : copy == number ? 1 : 0);
}

}  // namespace

void ExportTakeover(Napi::Env env, Napi::Object exports) {
  exports.Set("memfdCreate", Napi::Function::New(env, MemfdCreate, "memfdCreate"));
  exports.Set("mapShared", Napi::Function::New(env, MapShared, "mapShared"));
  exports.Set("occupyFd", Napi::Function::New(env, OccupyFd, "occupyFd"));
}

}  // namespace erofsd

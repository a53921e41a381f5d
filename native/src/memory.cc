// SPDX-License-Identifier: Apache-2.0
// Page-aligned buffers for direct I/O, and the check that a buffer's address is aligned (JS cannot
// see addresses). Memory is zeroed, and freed when the ArrayBuffer is collected and no job uses it
// (memory.h). Where the runtime forbids external buffers (pointer compression), or `external` is
// false, an ordinary ArrayBuffer one page larger is made and the array begins at its first page
// boundary.
#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

#include "args.h"
#include "families.h"

namespace erofsd {
namespace {

constexpr size_t kPageBytes = 4096;
// Below V8's own limit on every supported Node (2^32 - 1 in the oldest).
constexpr int64_t kBytesMax = int64_t{1} << 31;

size_t BytesToPage(const void* data) {
  const size_t rest = reinterpret_cast<uintptr_t>(data) % kPageBytes;
  return rest == 0 ? 0 : kPageBytes - rest;
}

// Marks the ArrayBuffers that a SharedMemory is wrapped in.
constexpr napi_type_tag kSharedTag = {0x6572'6f66'7364'0001, 0x616c'6967'6e65'6400};

void DropShare(napi_env, void*, void* shared) { delete static_cast<SharedMemory*>(shared); }

// An ArrayBuffer over page-aligned memory, or nullptr where the runtime does not allow it.
napi_value NewExternal(napi_env env, size_t bytes) {
  // Zeroed by the kernel, a page when it is first touched: a buffer is seldom used to its end.
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  auto* shared = new SharedMemory(data, [bytes](void* memory) { ::munmap(memory, bytes); });
  napi_value buffer = nullptr;
  if (napi_create_external_arraybuffer(env, data, bytes, DropShare, shared, &buffer) != napi_ok) {
    delete shared;
    return nullptr;
  }
  // From here on the buffer's end deletes `shared`.
  const bool marked = napi_wrap(env, buffer, shared, nullptr, nullptr, nullptr) == napi_ok &&
                      napi_type_tag_object(env, buffer, &kSharedTag) == napi_ok;
  return marked ? buffer : nullptr;
}

// allocateAligned(bytes, external) -> Uint8Array
Napi::Value AllocateAligned(const Napi::CallbackInfo& info) {
  Args args(info, "allocateAligned");
  const auto bytes = static_cast<size_t>(args.Integer(0, "bytes", 1, kBytesMax));
  const bool external = args.Boolean(1, "external");
  if (args.failed()) return info.Env().Undefined();
  const napi_env env = info.Env();
  size_t offset = 0;
  napi_value buffer = external ? NewExternal(env, bytes) : nullptr;
  if (buffer == nullptr) {
    void* data = nullptr;
    if (napi_create_arraybuffer(env, bytes + kPageBytes, &data, &buffer) != napi_ok) {
      args.Require(false, "bytes", "must be an amount of memory there is");
      return info.Env().Undefined();
    }
    offset = BytesToPage(data);
  }
  napi_value array = nullptr;
  napi_create_typedarray(env, napi_uint8_array, bytes, buffer, offset, &array);
  return Napi::Value(env, array);
}

// isAligned(bytes, bytesOffset, granule) -> boolean: is &bytes[bytesOffset] a multiple of granule?
Napi::Value IsAligned(const Napi::CallbackInfo& info) {
  Args args(info, "isAligned");
  const Bytes bytes = args.Uint8Array(0, "bytes");
  const auto offset =
      static_cast<uintptr_t>(args.Integer(1, "bytesOffset", 0, static_cast<int64_t>(bytes.length)));
  const auto granule = static_cast<uintptr_t>(args.Integer(2, "granule", 1, kPageBytes));
  if (args.failed()) return info.Env().Undefined();
  const bool aligned = (reinterpret_cast<uintptr_t>(bytes.data) + offset) % granule == 0;
  return Napi::Boolean::New(info.Env(), aligned);
}

}  // namespace

SharedMemory ShareMemory(napi_env env, napi_value array) {
  napi_value buffer = nullptr;
  bool ours = false;
  void* shared = nullptr;
  if (napi_get_typedarray_info(env, array, nullptr, nullptr, nullptr, &buffer, nullptr) !=
          napi_ok ||
      napi_check_object_type_tag(env, buffer, &kSharedTag, &ours) != napi_ok || !ours ||
      napi_unwrap(env, buffer, &shared) != napi_ok) {
    return SharedMemory();
  }
  return *static_cast<SharedMemory*>(shared);
}

void ExportMemory(Napi::Env env, Napi::Object exports) {
  exports.Set("allocateAligned", Napi::Function::New(env, AllocateAligned, "allocateAligned"));
  exports.Set("isAligned", Napi::Function::New(env, IsAligned, "isAligned"));
}

}  // namespace erofsd

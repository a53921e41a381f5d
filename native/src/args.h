// SPDX-License-Identifier: Apache-2.0
// Reads and checks the arguments of one native call. The first bad argument throws a TypeError
// (wrong type) or RangeError (wrong value) that names the function and the argument; later reads
// then give zeros, so a call reads all it wants and asks failed() once before it acts.
#pragma once

#include <napi.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace erofsd {

// 2^53 - 1: the greatest integer a JS number carries exactly.
constexpr int64_t kSafeIntegerMax = 9007199254740991;

struct Bytes {
  uint8_t* data = nullptr;
  size_t length = 0;
  napi_value value = nullptr;
};

// Only for the duration of the call.
struct Numbers {
  const uint32_t* data = nullptr;
  size_t length = 0;
};

class Args {
 public:
  Args(const Napi::CallbackInfo& info, const char* function) : info_(info), function_(function) {}

  int Fd(size_t index, const char* name);
  int64_t Integer(size_t index, const char* name, int64_t min, int64_t max);
  bool Boolean(size_t index, const char* name);
  // A Uint8Array (a Buffer is one). The pointer holds as long as the array is referenced.
  Bytes Uint8Array(size_t index, const char* name);
  Numbers Uint32Array(size_t index, const char* name);
  // Without NUL bytes inside.
  std::string Text(size_t index, const char* name);
  Napi::Function Function(size_t index, const char* name);

  // Checks between arguments: `what` completes the sentence '"name" must ...'.
  void Require(bool condition, const char* name, const std::string& what);

  bool failed() const { return failed_; }

 private:
  // Its data, and its number of elements; nullptr after a failure.
  void* TypedArray(size_t index, const char* name, napi_typedarray_type type, const char* what,
                   size_t* length);
  void Fail(bool range, const char* name, const std::string& what);

  const Napi::CallbackInfo& info_;
  const char* function_;
  bool failed_ = false;
};

// `result >= 0` or `-errno`, as every function of the addon gives it.
inline Napi::Value Result(const Napi::CallbackInfo& info, int64_t result) {
  return Napi::Number::New(info.Env(), static_cast<double>(result));
}

}  // namespace erofsd

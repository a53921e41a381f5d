// SPDX-License-Identifier: Apache-2.0
// Reading and checking of arguments; see args.h.
#include "args.h"

#include <cmath>
#include <limits>

namespace erofsd {

int Args::Fd(size_t index, const char* name) {
  return static_cast<int>(Integer(index, name, 0, std::numeric_limits<int>::max()));
}

int64_t Args::Integer(size_t index, const char* name, int64_t min, int64_t max) {
  if (failed_) return 0;
  const std::string what =
      "must be an integer from " + std::to_string(min) + " to " + std::to_string(max);
  if (!info_[index].IsNumber()) {
    Fail(false, name, what);
    return 0;
  }
  const double value = info_[index].As<Napi::Number>().DoubleValue();
  // The bounds are safe integers, so the comparison in double is exact; NaN fails it.
  const bool inside = value >= static_cast<double>(min) && value <= static_cast<double>(max);
  if (!inside || std::trunc(value) != value) {
    Fail(true, name, what);
    return 0;
  }
  return static_cast<int64_t>(value);
}

bool Args::Boolean(size_t index, const char* name) {
  if (failed_) return false;
  if (!info_[index].IsBoolean()) {
    Fail(false, name, "must be a boolean");
    return false;
  }
  return info_[index].As<Napi::Boolean>().Value();
}

Bytes Args::Uint8Array(size_t index, const char* name) {
  Bytes bytes;
  bytes.data = static_cast<uint8_t*>(
      TypedArray(index, name, napi_uint8_array, "must be a Uint8Array", &bytes.length));
  if (!failed_) bytes.value = info_[index];
  return bytes;
}

Numbers Args::Uint32Array(size_t index, const char* name) {
  Numbers numbers;
  numbers.data = static_cast<const uint32_t*>(
      TypedArray(index, name, napi_uint32_array, "must be a Uint32Array", &numbers.length));
  return numbers;
}

void* Args::TypedArray(size_t index, const char* name, napi_typedarray_type type, const char* what,
                       size_t* length) {
  if (failed_) return nullptr;
  void* data = nullptr;
  const Napi::Value value = info_[index];
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type ||
      napi_get_typedarray_info(info_.Env(), value, nullptr, length, &data, nullptr, nullptr) !=
          napi_ok) {
    *length = 0;
    Fail(false, name, what);
    return nullptr;
  }
  return data;
}

std::string Args::Text(size_t index, const char* name) {
  if (failed_) return std::string();
  if (!info_[index].IsString()) {
    Fail(false, name, "must be a string");
    return std::string();
  }
  std::string text = info_[index].As<Napi::String>().Utf8Value();
  if (text.empty() || text.find('\0') != std::string::npos) {
    Fail(true, name, "must be a non-empty string without NUL");
    return std::string();
  }
  return text;
}

Napi::Function Args::Function(size_t index, const char* name) {
  if (failed_) return Napi::Function();
  if (!info_[index].IsFunction()) {
    Fail(false, name, "must be a function");
    return Napi::Function();
  }
  return info_[index].As<Napi::Function>();
}

void Args::Require(bool condition, const char* name, const std::string& what) {
  if (!failed_ && !condition) Fail(true, name, what);
}

void Args::Fail(bool range, const char* name, const std::string& what) {
  failed_ = true;
  const std::string message = std::string(function_) + ": \"" + name + "\" " + what;
  if (range) {
    Napi::RangeError::New(info_.Env(), message).ThrowAsJavaScriptException();
  } else {
    Napi::TypeError::New(info_.Env(), message).ThrowAsJavaScriptException();
  }
}

}  // namespace erofsd

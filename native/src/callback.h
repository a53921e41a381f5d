// SPDX-License-Identifier: Apache-2.0
// A JS function called from the event loop, outside any JS frame: in a callback scope of its own
// (so ticks and microtasks run after it), an exception it throws becoming an uncaughtException.
// JS thread only.
#pragma once

#include <napi.h>

#include <initializer_list>

namespace erofsd {

class Callback {
 public:
  Callback() = default;
  ~Callback() { Reset(); }
  Callback(const Callback&) = delete;
  Callback& operator=(const Callback&) = delete;

  // `name` is what async_hooks shows. A function set before is dropped.
  void Set(napi_env env, napi_value function, const char* name);
  // Needs an open handle scope. Does nothing when the environment can no longer run JS.
  void Call(std::initializer_list<napi_value> args);
  // Not from within Call.
  void Reset();

 private:
  napi_env env_ = nullptr;
  napi_ref function_ = nullptr;
  napi_async_context context_ = nullptr;
};

}  // namespace erofsd

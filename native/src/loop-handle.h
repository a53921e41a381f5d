// SPDX-License-Identifier: Apache-2.0
// A heap object around one libuv handle on the environment's own loop. It ends in exactly one
// way: Close(), by its owner or by the environment's teardown, whichever is first; libuv then
// calls back, the JS references are dropped and the object deletes itself. Until that has
// happened the environment does not go away. JS thread only.
//
//   Attach -> (OnTeardown ->) Close -> [loop] closed callback -> destructor
#pragma once

#include <node_api.h>
#include <uv.h>

namespace erofsd {

class LoopHandle {
 public:
  LoopHandle(const LoopHandle&) = delete;
  LoopHandle& operator=(const LoopHandle&) = delete;

  bool closing() const { return closing_; }

 protected:
  LoopHandle() = default;
  virtual ~LoopHandle() = default;

  // The environment's loop, or nullptr when it has none any more.
  static uv_loop_t* LoopOf(napi_env env);
  // To be called once `handle` is initialised; takes over its `data`. From then on only Close
  // ends this object.
  void Attach(napi_env env, uv_handle_t* handle);
  // Idempotent. The object lives until the loop has run.
  void Close();
  // The environment goes away and JS runs no more: let go of everything that is not the handle.
  virtual void OnTeardown() = 0;

 private:
  static void TeardownHook(napi_async_cleanup_hook_handle hook, void* self);
  static void OnClosed(uv_handle_t* handle);

  uv_handle_t* handle_ = nullptr;
  napi_async_cleanup_hook_handle hook_ = nullptr;
  bool closing_ = false;
};

}  // namespace erofsd

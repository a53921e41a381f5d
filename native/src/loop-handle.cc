// SPDX-License-Identifier: Apache-2.0
// Life and end of a libuv handle; see loop-handle.h.
#include "loop-handle.h"

namespace erofsd {

uv_loop_t* LoopHandle::LoopOf(napi_env env) {
  uv_loop_t* loop = nullptr;
  return napi_get_uv_event_loop(env, &loop) == napi_ok ? loop : nullptr;
}

void LoopHandle::Attach(napi_env env, uv_handle_t* handle) {
  handle_ = handle;
  handle_->data = this;
  napi_add_async_cleanup_hook(env, TeardownHook, this, &hook_);
}

void LoopHandle::Close() {
  if (closing_) return;
  closing_ = true;
  uv_close(handle_, OnClosed);
}

void LoopHandle::TeardownHook(napi_async_cleanup_hook_handle, void* arg) {
  auto* self = static_cast<LoopHandle*>(arg);
  // Already closing: OnClosed comes all the same and lets the teardown go on.
  if (self->closing_) return;
  self->OnTeardown();
  self->Close();
}

void LoopHandle::OnClosed(uv_handle_t* handle) {
  auto* self = static_cast<LoopHandle*>(handle->data);
  const napi_async_cleanup_hook_handle hook = self->hook_;
  delete self;  // before the hook: it holds the environment that the references belong to
  napi_remove_async_cleanup_hook(hook);
}

}  // namespace erofsd

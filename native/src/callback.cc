// SPDX-License-Identifier: Apache-2.0
// A JS function called from the event loop; see callback.h.
#include "callback.h"

namespace erofsd {

void Callback::Set(napi_env env, napi_value function, const char* name) {
  Reset();
  env_ = env;
  napi_value resource_name = nullptr;
  if (napi_create_reference(env, function, 1, &function_) != napi_ok) return;
  if (napi_create_string_utf8(env, name, NAPI_AUTO_LENGTH, &resource_name) != napi_ok) return;
  napi_async_init(env, nullptr, resource_name, &context_);
}

void Callback::Call(std::initializer_list<napi_value> args) {
  napi_value function = nullptr;
  napi_value receiver = nullptr;
  if (function_ == nullptr || context_ == nullptr) return;
  if (napi_get_reference_value(env_, function_, &function) != napi_ok) return;
  if (napi_get_global(env_, &receiver) != napi_ok) return;
  napi_value result = nullptr;
  if (napi_make_callback(env_, context_, receiver, function, args.size(), args.begin(), &result) !=
      napi_pending_exception) {
    return;
  }
  napi_value error = nullptr;
  if (napi_get_and_clear_last_exception(env_, &error) == napi_ok) napi_fatal_exception(env_, error);
}

void Callback::Reset() {
  if (context_ != nullptr) napi_async_destroy(env_, context_);
  if (function_ != nullptr) napi_delete_reference(env_, function_);
  context_ = nullptr;
  function_ = nullptr;
}

}  // namespace erofsd

// SPDX-License-Identifier: Apache-2.0
// Who owns the memory of allocateAligned: its ArrayBuffer, and every job that uses it. An
// environment that goes away frees external buffers before it calls any cleanup hook (Node 20
// and newer), so while threads may still work on them; a reference from JS does not prevent it.
#pragma once

#include <node_api.h>

#include <memory>

namespace erofsd {

using SharedMemory = std::shared_ptr<void>;

// Keeps the memory behind `array` (a typed array) when it is allocateAligned's; empty otherwise.
// Ordinary buffers belong to V8, which frees them after the hooks.
SharedMemory ShareMemory(napi_env env, napi_value array);

}  // namespace erofsd

// SPDX-License-Identifier: Apache-2.0
// The addon's entry: collects what each syscall family exports. Nothing here or anywhere in the
// addon is mutable at module level, so every worker thread gets its own, independent copy.
#include "families.h"

namespace erofsd {
namespace {

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  ExportAttributes(env, exports);
  ExportDatagram(env, exports);
  ExportDevice(env, exports);
  ExportFanotify(env, exports);
  ExportFdPassing(env, exports);
  ExportFdWatcher(env, exports);
  ExportFile(env, exports);
  ExportJobPools(env, exports);
  ExportLayout(env, exports);
  ExportMemory(env, exports);
  ExportTakeover(env, exports);
  return exports;
}

}  // namespace
}  // namespace erofsd

static Napi::Object InitAddon(Napi::Env env, Napi::Object exports) {
  return erofsd::Init(env, exports);
}

NODE_API_MODULE(erofsd, InitAddon)

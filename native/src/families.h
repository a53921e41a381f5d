// SPDX-License-Identifier: Apache-2.0
// One registration function for each .cc that exports functions or classes to JS.
#pragma once

#include <napi.h>

namespace erofsd {

void ExportAttributes(Napi::Env env, Napi::Object exports);
void ExportDatagram(Napi::Env env, Napi::Object exports);
void ExportDevice(Napi::Env env, Napi::Object exports);
void ExportFanotify(Napi::Env env, Napi::Object exports);
void ExportFdPassing(Napi::Env env, Napi::Object exports);
void ExportFdWatcher(Napi::Env env, Napi::Object exports);
void ExportFile(Napi::Env env, Napi::Object exports);
void ExportJobPools(Napi::Env env, Napi::Object exports);
void ExportLayout(Napi::Env env, Napi::Object exports);
void ExportMemory(Napi::Env env, Napi::Object exports);
void ExportTakeover(Napi::Env env, Napi::Object exports);

}  // namespace erofsd

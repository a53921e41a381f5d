// SPDX-License-Identifier: Apache-2.0
// layout(): sizes, offsets and numbers of the cachefiles ABI as the C compiler sees them, for a
// test to compare with the constants of the TypeScript parser. `source` says whose header it was.
#include <cstddef>

#include "cachefiles-uapi.h"
#include "families.h"

namespace erofsd {
namespace {

struct Entry {
  const char* name;
  double value;
};

constexpr Entry kEntries[] = {
    {"messageBytesMax", CACHEFILES_MSG_MAX_SIZE},
    {"opcodeOpen", CACHEFILES_OP_OPEN},
    {"opcodeClose", CACHEFILES_OP_CLOSE},
    {"opcodeRead", CACHEFILES_OP_READ},
    {"readCompleteIoctl", CACHEFILES_IOC_READ_COMPLETE},
    {"headerBytes", sizeof(cachefiles_msg)},
    {"msgIdOffset", offsetof(cachefiles_msg, msg_id)},
    {"opcodeOffset", offsetof(cachefiles_msg, opcode)},
    {"lengthOffset", offsetof(cachefiles_msg, len)},
    {"objectIdOffset", offsetof(cachefiles_msg, object_id)},
    // From here on relative to the end of the header.
    {"openBytes", sizeof(cachefiles_open)},
    {"openVolumeKeySizeOffset", offsetof(cachefiles_open, volume_key_size)},
    {"openCookieKeySizeOffset", offsetof(cachefiles_open, cookie_key_size)},
    {"openFdOffset", offsetof(cachefiles_open, fd)},
    {"openFlagsOffset", offsetof(cachefiles_open, flags)},
    {"readBytes", sizeof(cachefiles_read)},
    {"readOffsetOffset", offsetof(cachefiles_read, off)},
    {"readLengthOffset", offsetof(cachefiles_read, len)},
};

Napi::Value Layout(const Napi::CallbackInfo& info) {
  Napi::Object table = Napi::Object::New(info.Env());
  for (const Entry& entry : kEntries) table.Set(entry.name, entry.value);
  table.Set("source", EROFSD_CACHEFILES_UAPI);
  return table;
}

}  // namespace

void ExportLayout(Napi::Env env, Napi::Object exports) {
  exports.Set("layout", Napi::Function::New(env, Layout, "layout"));
}

}  // namespace erofsd

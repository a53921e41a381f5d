// SPDX-License-Identifier: Apache-2.0
// layout(): sizes, offsets and numbers of the cachefiles and fanotify ABIs as the C compiler sees
// them, for a test to compare with the constants of the TypeScript parser. `source` says whose
// cachefiles header it was.
#include <cstddef>

#include "cachefiles-uapi.h"
#include "families.h"
#include "fanotify-uapi.h"

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
    {"eventBytes", sizeof(fanotify_event_metadata)},
    {"eventVersion", FANOTIFY_METADATA_VERSION},
    {"eventVersionOffset", offsetof(fanotify_event_metadata, vers)},
    {"eventHeaderBytesOffset", offsetof(fanotify_event_metadata, metadata_len)},
    {"eventMaskOffset", offsetof(fanotify_event_metadata, mask)},
    {"eventFdOffset", offsetof(fanotify_event_metadata, fd)},
    {"eventPidOffset", offsetof(fanotify_event_metadata, pid)},
    {"eventPreAccess", FAN_PRE_ACCESS},
    {"eventOverflow", FAN_Q_OVERFLOW},
    {"infoBytes", sizeof(fanotify_event_info_header)},
    {"infoLengthOffset", offsetof(fanotify_event_info_header, len)},
    {"rangeType", FAN_EVENT_INFO_TYPE_RANGE},
    {"rangeBytes", sizeof(fanotify_event_info_range)},
    {"rangeOffsetOffset", offsetof(fanotify_event_info_range, offset)},
    {"rangeCountOffset", offsetof(fanotify_event_info_range, count)},
    {"responseBytes", sizeof(fanotify_response)},
    {"responseAllow", FAN_ALLOW},
    {"responseDenyEio", FAN_DENY_ERRNO(5)},
    {"groupFlags", FAN_CLASS_PRE_CONTENT | FAN_NONBLOCK | FAN_CLOEXEC | FAN_UNLIMITED_QUEUE |
                       FAN_UNLIMITED_MARKS},
    {"markAdd", FAN_MARK_ADD},
    {"markRemove", FAN_MARK_REMOVE},
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

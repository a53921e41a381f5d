// SPDX-License-Identifier: Apache-2.0
// The kernel's fanotify ABI with pre-content events: from the system's <linux/fanotify.h>, and
// what older headers lack as in include/uapi/linux/fanotify.h of Linux 6.18
// (GPL-2.0 WITH Linux-syscall-note).
#pragma once

#include <linux/fanotify.h>
#include <linux/types.h>

#ifndef FAN_PRE_ACCESS
#define FAN_PRE_ACCESS 0x00100000
#endif

#ifndef FAN_EVENT_INFO_TYPE_RANGE
#define FAN_EVENT_INFO_TYPE_RANGE 6

struct fanotify_event_info_range {
  struct fanotify_event_info_header hdr;
  __u32 pad;
  __u64 offset;
  __u64 count;
};
#endif

#ifndef FAN_DENY_ERRNO
#define FAN_DENY_ERRNO(err) (FAN_DENY | ((((__u32)(err)) & 0xff) << 24))
#endif

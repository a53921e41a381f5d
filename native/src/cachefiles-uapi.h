// SPDX-License-Identifier: Apache-2.0
// The kernel's cachefiles on-demand ABI: from the system's <linux/cachefiles.h> (Linux 5.19 to
// 7.1) where it exists, else the same declarations copied from
// include/uapi/linux/cachefiles.h of Linux 6.12 (GPL-2.0 WITH Linux-syscall-note).
#pragma once

#if __has_include(<linux/cachefiles.h>)

#include <linux/cachefiles.h>
#define EROFSD_CACHEFILES_UAPI "linux/cachefiles.h"

#else

#include <linux/ioctl.h>
#include <linux/types.h>
#define EROFSD_CACHEFILES_UAPI "copy of Linux 6.12"

#define CACHEFILES_MSG_MAX_SIZE 1024

enum cachefiles_opcode {
  CACHEFILES_OP_OPEN,
  CACHEFILES_OP_CLOSE,
  CACHEFILES_OP_READ,
};

struct cachefiles_msg {
  __u32 msg_id;
  __u32 opcode;
  __u32 len;
  __u32 object_id;
  __u8 data[];
};

struct cachefiles_open {
  __u32 volume_key_size;
  __u32 cookie_key_size;
  __u32 fd;
  __u32 flags;
  __u8 data[];
};

struct cachefiles_read {
  __u64 off;
  __u64 len;
};

#define CACHEFILES_IOC_READ_COMPLETE _IOW(0x98, 1, int)

#endif

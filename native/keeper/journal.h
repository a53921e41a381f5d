// SPDX-License-Identifier: Apache-2.0
// The journal of fanotify events, shared by daemon and keeper (src/kernel/fanotify/journal.ts has
// the same layout, and says what for): a head, a page that events are read into, and slots.
#ifndef EROFSD_JOURNAL_H
#define EROFSD_JOURNAL_H

#include <stdint.h>

enum {
  JOURNAL_MAGIC = 0x4a465245,
  JOURNAL_VERSION = 1,
  JOURNAL_PAGE_AT = 4096,
  JOURNAL_PAGE_BYTES = 4096,
  JOURNAL_SLOTS_AT = 8192,
  JOURNAL_SLOTS_MAX = 1 << 16,
};

struct journal_head {
  uint32_t magic, version, slots, reserved;
};

// Unanswered while `pending` is 1; `taken`: by CLOCK_MONOTONIC, ms.
struct journal_slot {
  int32_t fd;
  uint32_t pending;
  uint64_t device, inode, offset, length, taken;
  uint64_t reserved[2];
};

#endif

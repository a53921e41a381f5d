// SPDX-License-Identifier: Apache-2.0
// Failing mode of the keeper (see keeper.c) on fanotify: every access is refused with EIO. First
// those that the lost daemon had taken: the kernel knows them by the numbers of fds that died with
// it, and events taken here could be given the same numbers. Source: linux/fanotify.h.
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "journal.h"
#include "keeper.h"

enum { REFUSE_EIO = FAN_DENY | (EIO << 24) };

static int group = -1;

static void refuse(int fd) {
  const struct fanotify_response response = {.fd = fd, .response = REFUSE_EIO};
  // ENOENT: it was answered, or its reader is gone.
  while (write(group, &response, sizeof response) < 0 && errno == EINTR) continue;
}

// Calls `refuse` for each event in `bytes`; the fds are the dead daemon's, or `ours` to close.
static void refuse_events(const char* bytes, size_t length, bool ours) {
  struct fanotify_event_metadata event;
  for (size_t at = 0; at + sizeof event <= length; at += event.event_len) {
    memcpy(&event, bytes + at, sizeof event);
    if (event.event_len < sizeof event || event.event_len > length - at) return;
    if (event.fd < 0) continue;
    refuse(event.fd);
    if (ours) close(event.fd);
  }
}

static void refuse_journal(char* bytes, size_t size) {
  const struct journal_head* head = (const void*)bytes;
  if (head->magic != JOURNAL_MAGIC || head->version != JOURNAL_VERSION) return;
  struct journal_slot* slots = (void*)(bytes + JOURNAL_SLOTS_AT);
  const size_t room = (size - JOURNAL_SLOTS_AT) / sizeof *slots;
  for (size_t i = 0; i < head->slots && i < room; i++) {
    if (slots[i].pending == 0) continue;
    refuse(slots[i].fd);
    slots[i].pending = 0;
  }
  refuse_events(bytes + JOURNAL_PAGE_AT, JOURNAL_PAGE_BYTES, false);
  memset(bytes + JOURNAL_PAGE_AT, 0, JOURNAL_PAGE_BYTES);
}

void failing_fanotify_begin(int group_fd, int journal) {
  group = group_fd;
  struct stat stat;
  if (journal < 0 || fstat(journal, &stat) != 0 || stat.st_size < JOURNAL_SLOTS_AT) return;
  const size_t size = (size_t)stat.st_size;
  char* bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, journal, 0);
  if (bytes == MAP_FAILED) return;
  refuse_journal(bytes, size);
  munmap(bytes, size);
}

void failing_fanotify_step(void) {
  static char bytes[JOURNAL_PAGE_BYTES] __attribute__((aligned(8)));
  for (int left = 64; left > 0; left--) {
    const ssize_t count = read(group, bytes, sizeof bytes);
    // Any other error than these has taken an event off the queue, and refused it.
    if (count < 0 && (errno == EAGAIN || errno == EBADF || errno == EINVAL)) return;
    if (count > 0) refuse_events(bytes, (size_t)count, true);
  }
}

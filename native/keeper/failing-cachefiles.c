// SPDX-License-Identifier: Apache-2.0
// Failing mode of the keeper (see keeper.c) on cachefiles: every request of the kernel gets an answer, and each
// is an error in the end. Messages as in linux/cachefiles.h and Documentation/filesystems/caching.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "keeper.h"

#define READ_COMPLETE 0x40049801UL

// A refused OPEN that is here again within REOPEN_MS belongs to a mounted object.
enum { REOPEN_MS = 100, HELD_MAX = 1024, REFUSED_MAX = 256, MESSAGE_BYTES_MAX = 1024 };
enum { OP_OPEN, OP_CLOSE, OP_READ };

struct message {
  uint32_t id, opcode, length, object;
  union {
    struct {
      uint32_t volume_key_size, cookie_key_size;
      int32_t fd;
      uint32_t flags;
      uint8_t keys[MESSAGE_BYTES_MAX - 32];
    } open;
  };
};

static int device = -1;
static long long objects_left;
static long long checked_ms;
// fd + 1, so that 0 means none.
static struct {
  uint32_t object;
  int fd_plus_1;
} held[HELD_MAX];
static struct {
  uint64_t keys;
  long long ms;
} refused[REFUSED_MAX];
static size_t next_held, next_refused;

long long now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

// FNV-1a over both keys and where one ends.
static uint64_t hash_of(const struct message* message, size_t bytes) {
  uint64_t hash = 0xcbf29ce484222325u ^ message->open.volume_key_size;
  for (size_t i = 0; i < bytes; i++) hash = (hash ^ message->open.keys[i]) * 0x100000001b3u;
  return hash;
}

static void command(const char* text) {
  while (write(device, text, strlen(text)) < 0 && errno == EINTR) continue;
}

static void release(size_t at) {
  if (held[at].fd_plus_1 > 0) close(held[at].fd_plus_1 - 1);
  held[at].fd_plus_1 = 0;
}

static bool refused_just_now(uint64_t keys) {
  const long long now = now_ms();
  for (size_t i = 0; i < REFUSED_MAX; i++) {
    if (refused[i].ms != 0 && refused[i].keys == keys && now - refused[i].ms <= REOPEN_MS) {
      return true;
    }
  }
  refused[next_refused].keys = keys;
  refused[next_refused].ms = now;
  next_refused = (next_refused + 1) % REFUSED_MAX;
  return false;
}

static void answer_open(const struct message* message, size_t key_bytes) {
  char text[40];
  const int fd = message->open.fd;
  if (!refused_just_now(hash_of(message, key_bytes))) {
    snprintf(text, sizeof text, "copen %u,-%d", message->id, EIO);
    command(text);
    close(fd);
    return;
  }
  // Room is made by closing the oldest: its next READ re-OPENs it.
  release(next_held);
  held[next_held].object = message->object;
  held[next_held].fd_plus_1 = fd + 1;
  next_held = (next_held + 1) % HELD_MAX;
  snprintf(text, sizeof text, "copen %u,4096", message->id);
  command(text);
}

static void answer(const struct message* message, size_t bytes) {
  if (message->opcode == OP_OPEN) {
    if (bytes >= 32) answer_open(message, bytes - 32);
    return;
  }
  if (message->opcode == OP_CLOSE) objects_left--;
  for (size_t i = 0; i < HELD_MAX; i++) {
    if (held[i].fd_plus_1 == 0 || held[i].object != message->object) continue;
    if (message->opcode == OP_CLOSE) release(i);
    if (message->opcode == OP_READ) ioctl(held[i].fd_plus_1 - 1, READ_COMPLETE, message->id);
  }
}

// CACHE    REF   VOLS  OBJS  ACCES S NAME, one line for each cache; only one can be cachefiles'.
static bool kernel_has_objects(void) {
  char text[2048];
  const int fd = open("/proc/fs/fscache/caches", O_RDONLY | O_CLOEXEC);
  const ssize_t count = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (fd >= 0) close(fd);
  if (count < 0) return true;
  text[count] = '\0';
  for (const char* line = text; line != NULL; line = strchr(line + 1, '\n')) {
    long long objects;
    if (sscanf(line, " %*x %*d %*d %lld", &objects) == 1 && objects > 0) return true;
  }
  return false;
}

void failing_cachefiles_begin(int fd, long long objects) {
  device = fd;
  objects_left = objects;
  checked_ms = now_ms();
  command("restore");
}

bool failing_cachefiles_step(void) {
  static struct message message;
  for (bool any = false;; any = true) {
    const ssize_t count = read(device, &message, MESSAGE_BYTES_MAX);
    // EEXIST: the kernel has failed an OPEN that it could not deliver a second time.
    if (count < 0 && (errno == EINTR || errno == EEXIST)) continue;
    if (count < 0 && errno != EAGAIN) return true;
    // Ready with nothing to read must not become a busy loop.
    if (count < 16 && !any) poll(NULL, 0, 10);
    if (count < 16) break;
    answer(&message, (size_t)count);
  }
  if (objects_left <= 0) return true;
  const long long now = now_ms();
  if (now - checked_ms < CHECK_MS) return false;
  checked_ms = now;
  return !kernel_has_objects();
}

void failing_cachefiles_end(void) {
  for (size_t i = 0; i < HELD_MAX; i++) release(i);
}

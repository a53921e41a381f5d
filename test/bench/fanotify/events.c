// SPDX-License-Identifier: Apache-2.0
// What an event costs at least, and what it costs.
//   events allow FILE                 marks FILE, says "ready", and lets every access through
//   events read FILE FROM BYTES COUNT reads blocks anywhere in there; prints microseconds, a line each
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <time.h>
#include <unistd.h>

#ifndef FAN_PRE_ACCESS
#define FAN_PRE_ACCESS 0x00100000
#endif
enum { BLOCK = 4096 };

static int allow(const char* path) {
  const int group =
      fanotify_init(FAN_CLASS_PRE_CONTENT | FAN_CLOEXEC, O_RDONLY | O_LARGEFILE | O_CLOEXEC);
  if (group < 0 || fanotify_mark(group, FAN_MARK_ADD, FAN_PRE_ACCESS, AT_FDCWD, path) != 0) return 1;
  printf("ready\n");
  fflush(stdout);
  static char buffer[BLOCK] __attribute__((aligned(8)));
  for (;;) {
    ssize_t left = read(group, buffer, sizeof buffer);
    if (left <= 0) return 1;
    const struct fanotify_event_metadata* event = (const void*)buffer;
    for (; FAN_EVENT_OK(event, left); event = FAN_EVENT_NEXT(event, left)) {
      const struct fanotify_response response = {.fd = event->fd, .response = FAN_ALLOW};
      if (write(group, &response, sizeof response) != sizeof response) return 1;
      close(event->fd);
    }
  }
}

static double now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static int read_blocks(const char* path, off_t from, off_t bytes, long count) {
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return 1;
  static char block[BLOCK];
  uint64_t chance = (uint64_t)getpid() * 0x9e3779b97f4a7c15u;
  for (long n = 0; n < count; n += 1) {
    chance = chance * 6364136223846793005u + 1442695040888963407u;
    const off_t at = from + (off_t)((chance >> 33) % (uint64_t)(bytes / BLOCK)) * BLOCK;
    const double start = now_us();
    if (pread(file, block, BLOCK, at) != BLOCK) return 1;
    printf("%.1f\n", now_us() - start);
  }
  return 0;
}

int main(int argc, char** argv) {
  if (argc == 3 && strcmp(argv[1], "allow") == 0) return allow(argv[2]);
  if (argc == 6 && strcmp(argv[1], "read") == 0)
    return read_blocks(argv[2], atoll(argv[3]), atoll(argv[4]), atol(argv[5]));
  fprintf(stderr, "events allow FILE | events read FILE FROM BYTES COUNT\n");
  return 2;
}

// SPDX-License-Identifier: Apache-2.0
// Preloaded into a child by pwrite-faults.test.ts: makes pwrite(2) fail as the script in the
// environment variable PWRITE_FAULTS says, one letter a call, and pass through when it has ended:
//   e = EINTR   z = gives 0   h = writes half   o = writes half and one byte
// Each call's length and offset go to stderr.
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int calls;

static ssize_t faulty(int fd, const void* data, size_t length, off_t offset) {
  const char* script = getenv("PWRITE_FAULTS");
  const int call = __atomic_fetch_add(&calls, 1, __ATOMIC_SEQ_CST);
  char fault = 0;
  for (int i = 0; script && script[i]; i++) {
    if (i == call) fault = script[i];
  }
  fprintf(stderr, "%zu@%lld\n", length, (long long)offset);
  if (fault == 'z') return 0;
  if (fault == 'e') {
    errno = EINTR;
    return -1;
  }
  if (fault == 'h') length /= 2;
  if (fault == 'o') length = length / 2 + 1;
  return syscall(SYS_pwrite64, fd, data, length, offset);
}

ssize_t pwrite(int fd, const void* data, size_t length, off_t offset) {
  return faulty(fd, data, length, offset);
}

ssize_t pwrite64(int fd, const void* data, size_t length, off_t offset) {
  return faulty(fd, data, length, offset);
}

// SPDX-License-Identifier: Apache-2.0
// What pool threads do: pwrite(2), lseek(2), madvise(2), and decodes (decode.h). Runs on pool
// threads.
#include "job.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "args.h"
#include "syscall.h"

namespace erofsd {
namespace {

// Writes all of it. A short write goes on where it ended, rounded down to the granule: a cache
// file of Linux 6.1 silently misplaces a write at an offset that is not a multiple of 4096, and
// writing the same bytes again is harmless. No progress of a whole granule is -EIO.
int64_t WriteAll(const Job& job) {
  size_t written = 0;
  while (written < job.length) {
    const int64_t count = RetryEintr([&] {
      return ::pwrite(job.fd, job.data + written, job.length - written,
                      static_cast<off_t>(job.offset + static_cast<int64_t>(written)));
    });
    if (count < 0) return count;
    const size_t now = written + static_cast<size_t>(count);
    const size_t whole = now == job.length ? now : now - now % job.granule;
    if (whole == written) return -EIO;
    written = whole;
  }
  return static_cast<int64_t>(job.length);
}

int64_t Seek(int fd, int64_t offset, int whence) {
  const int64_t position =
      RetryEintr([&] { return ::lseek(fd, static_cast<off_t>(offset), whence); });
  return position > kSafeIntegerMax ? -EOVERFLOW : position;
}

// Gives the number of extents found. ENXIO is lseek's word for "no more data".
int64_t FindExtents(Job& job) {
  int64_t at = job.offset;
  while (at < job.end && job.numbers.size() < 2 * job.extents_max) {
    const int64_t start = Seek(job.fd, at, SEEK_DATA);
    if (start == -ENXIO || start >= job.end) break;
    if (start < 0) return start;
    const int64_t hole = Seek(job.fd, start, SEEK_HOLE);
    if (hole == -ENXIO) break;  // truncated meanwhile
    if (hole < 0) return hole;
    if (hole <= start) {  // punched meanwhile
      at = start + 1;
      continue;
    }
    at = std::min(hole, job.end);
    job.numbers.push_back(static_cast<double>(start));
    job.numbers.push_back(static_cast<double>(at));
  }
  return static_cast<int64_t>(job.numbers.size() / 2);
}

// linux/mman.h, since 5.14; the C library's headers may be older than the kernel.
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

int64_t Populate(const Job& job) {
  // madvise(2) takes whole pages and changes none of their bytes.
  auto* data = const_cast<uint8_t*>(job.data);
  return RetryEintr([&] { return ::madvise(data, job.length, MADV_POPULATE_WRITE); });
}

}  // namespace

void Job::Run(Decoder& decoder) {
  switch (kind) {
    case Kind::kWrite:
      result = WriteAll(*this);
      return;
    case Kind::kSeek:
      result = Seek(fd, offset, whence);
      return;
    case Kind::kExtents:
      result = FindExtents(*this);
      return;
    case Kind::kPopulate:
      result = Populate(*this);
      return;
    case Kind::kDecode:
      result = decoder.Run(decode);
      return;
    case Kind::kDecodeMany:
      for (const DecodeRequest& request : decodes) numbers.push_back(decoder.Run(request));
      result = static_cast<int64_t>(numbers.size());
      return;
  }
}

}  // namespace erofsd

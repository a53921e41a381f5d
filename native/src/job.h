// SPDX-License-Identifier: Apache-2.0
// One piece of work for the pool: a positioned write, a seek, or a walk over a file's extents.
// Run() is the only thing a pool thread does with it; it touches no JS.
#pragma once

#include <node_api.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace erofsd {

struct Job {
  enum class Kind { kWrite, kSeek, kExtents };

  Kind kind = Kind::kWrite;
  int64_t id = 0;
  int fd = -1;
  int64_t offset = 0;  // in the file

  // kWrite
  const uint8_t* data = nullptr;
  size_t length = 0;
  size_t granule = 1;        // a short write is continued at a multiple of this
  napi_ref bytes = nullptr;  // keeps `data` alive; JS thread only

  // kSeek
  int whence = 0;

  // kExtents: within [offset, end), at most extents_max
  int64_t end = 0;
  size_t extents_max = 0;
  std::vector<double> extents;  // start, end, start, end, ...

  int64_t result = 0;  // >= 0, or -errno

  void Run();
};

}  // namespace erofsd

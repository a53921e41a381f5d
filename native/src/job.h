// SPDX-License-Identifier: Apache-2.0
// One piece of work for a pool: a positioned write, a seek, a walk over a file's extents, memory
// to be made, or a decode. Run() is the only thing a pool thread does with it; it touches no JS.
#pragma once

#include <node_api.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "decode.h"
#include "memory.h"

namespace erofsd {

struct Job {
  enum class Kind { kWrite, kSeek, kExtents, kPopulate, kDecode, kDecodeMany };

  Kind kind = Kind::kWrite;
  int64_t id = 0;
  // Keep the buffers in use alive: as JS objects (JS thread only), and as memory.
  std::array<napi_ref, 3> kept = {};
  std::array<SharedMemory, 3> memory;

  int fd = -1;
  int64_t offset = 0;  // in the file

  // kWrite, kPopulate
  const uint8_t* data = nullptr;
  size_t length = 0;
  size_t granule = 1;  // a short write is continued at a multiple of this

  // kSeek
  int whence = 0;

  // kExtents: within [offset, end), at most extents_max
  int64_t end = 0;
  size_t extents_max = 0;

  DecodeRequest decode;                // kDecode
  std::vector<DecodeRequest> decodes;  // kDecodeMany

  // Beside the result. kExtents: start, end, start, end, ... kDecodeMany: 0 or -errno of each.
  std::vector<double> numbers;

  int64_t result = 0;  // >= 0, or -errno

  // `decoder` belongs to the calling thread.
  void Run(Decoder& decoder);
};

}  // namespace erofsd

// SPDX-License-Identifier: Apache-2.0
// Stored bytes to decoded bytes, in memory: what a decoder thread does. Knows nothing of JS.
// A request's ranges were checked when it was made; what the stored bytes say is checked here.
// One Decoder per thread: it keeps the codecs' states and the scratch memory between requests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

struct ZSTD_DCtx_s;
struct z_stream_s;

namespace erofsd {

constexpr size_t kBlockBytes = 4096;
// Of scratch memory, which each thread keeps; what is decoded in one piece needs none.
constexpr size_t kScratchBytesMax = size_t{16} << 20;
constexpr size_t kDecodedBytesMax = size_t{1} << 30;

enum class Codec { kNone, kLz4Block, kZstd, kInflate };

// Decoded bytes [from, from + length) go to target + target_offset; zeros follow up to the next
// multiple of kBlockBytes, which is still inside the target.
struct Piece {
  size_t from;
  size_t length;
  size_t target_offset;
};

struct DecodeRequest {
  Codec codec = Codec::kNone;
  const uint8_t* source = nullptr;
  size_t source_length = 0;
  size_t decoded_bytes = 0;
  // kInflate: the bytes before the source, and the top `bits` bits of the byte before it.
  const uint8_t* dictionary = nullptr;
  size_t dictionary_length = 0;
  int bits = 0;
  int byte = 0;
  uint8_t* target = nullptr;
  std::vector<Piece> pieces;

  // Decoded straight into the target.
  bool IsOnePiece() const {
    return pieces.size() == 1 && pieces[0].from == 0 && pieces[0].length == decoded_bytes;
  }
};

class Decoder {
 public:
  Decoder();
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  // 0, -EBADMSG (the source is not decoded_bytes in that codec) or -ENOMEM. After a failure the
  // pieces' places in the target hold anything.
  int Run(const DecodeRequest& request);

 private:
  int Decode(const DecodeRequest& request, uint8_t* out);
  int Zstd(const DecodeRequest& request, uint8_t* out);
  int Inflate(const DecodeRequest& request, uint8_t* out);
  // Where a whole request is decoded to; nullptr when there is no memory.
  uint8_t* Scratch(size_t bytes);

  std::unique_ptr<uint8_t[]> scratch_;
  size_t scratch_bytes_ = 0;
  ZSTD_DCtx_s* zstd_ = nullptr;
  std::unique_ptr<z_stream_s> inflate_;
};

}  // namespace erofsd

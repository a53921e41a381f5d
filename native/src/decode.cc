// SPDX-License-Identifier: Apache-2.0
// The codecs; see decode.h. libzstd, liblz4 and zlib are the system's, but node exports zlib's
// symbols (and newer ones zstd's), which then win: only functions that come from one source file
// of theirs are used with one state, so that a state never meets two versions.
#include "decode.h"

#include <lz4.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

namespace erofsd {
namespace {

constexpr size_t kGzipTrailerBytes = 8;
constexpr int kRawDeflate = -MAX_WBITS;

// RFC 1952: the length of the member header at the start of `data`, 0 when there is none.
size_t GzipHeaderBytes(const uint8_t* data, size_t length) {
  constexpr int kHeaderCrc = 2, kExtra = 4, kName = 8, kComment = 16, kReserved = 0xe0;
  size_t at = 10;
  if (length < at || data[0] != 0x1f || data[1] != 0x8b || data[2] != Z_DEFLATED) return 0;
  const int flags = data[3];
  if ((flags & kReserved) != 0) return 0;
  if ((flags & kExtra) != 0) {
    if (length - at < 2) return 0;
    at += size_t{2} + data[at] + (size_t{data[at + 1]} << 8);
    if (at > length) return 0;
  }
  for (const int text : {kName, kComment}) {
    if ((flags & text) == 0) continue;
    const void* end = at == length ? nullptr : std::memchr(data + at, 0, length - at);
    if (end == nullptr) return 0;
    at = static_cast<size_t>(static_cast<const uint8_t*>(end) - data) + 1;
  }
  if ((flags & kHeaderCrc) != 0) at += 2;
  return at <= length ? at : 0;
}

// Steps over a member's trailer and the header of the next one.
bool SkipToNextMember(z_stream* stream) {
  if (stream->avail_in < kGzipTrailerBytes) return false;
  stream->next_in += kGzipTrailerBytes;
  stream->avail_in -= kGzipTrailerBytes;
  const size_t header = GzipHeaderBytes(stream->next_in, stream->avail_in);
  stream->next_in += header;
  stream->avail_in -= static_cast<uInt>(header);
  return header > 0;
}

// The formats before zstd 1.0 have other magic numbers; libzstd may still know them, and nobody
// may make us run those decoders.
bool IsZstdFrame(const uint8_t* data, size_t length) {
  if (length < 4) return false;
  const uint32_t magic =
      data[0] | uint32_t{data[1]} << 8 | uint32_t{data[2]} << 16 | uint32_t{data[3]} << 24;
  return magic == ZSTD_MAGICNUMBER ||
         (magic & ZSTD_MAGIC_SKIPPABLE_MASK) == ZSTD_MAGIC_SKIPPABLE_START;
}

int Lz4Block(const DecodeRequest& request, uint8_t* out) {
  const int decoded = LZ4_decompress_safe(
      reinterpret_cast<const char*>(request.source), reinterpret_cast<char*>(out),
      static_cast<int>(request.source_length), static_cast<int>(request.decoded_bytes));
  return decoded >= 0 && static_cast<size_t>(decoded) == request.decoded_bytes ? 0 : -EBADMSG;
}

void ZeroAfter(const DecodeRequest& request, const Piece& piece) {
  const size_t end = piece.target_offset + piece.length;
  const size_t rest = end % kBlockBytes;
  if (rest > 0) std::memset(request.target + end, 0, kBlockBytes - rest);
}

void Scatter(const DecodeRequest& request, const uint8_t* decoded) {
  for (const Piece& piece : request.pieces) {
    if (piece.length > 0) {
      std::memcpy(request.target + piece.target_offset, decoded + piece.from, piece.length);
    }
    ZeroAfter(request, piece);
  }
}

}  // namespace

Decoder::Decoder() = default;

Decoder::~Decoder() {
  ZSTD_freeDCtx(zstd_);
  if (inflate_ != nullptr) inflateEnd(inflate_.get());
}

int Decoder::Run(const DecodeRequest& request) {
  if (request.codec == Codec::kNone) {
    if (request.source_length != request.decoded_bytes) return -EBADMSG;
    Scatter(request, request.source);
    return 0;
  }
  if (request.IsOnePiece()) {
    const Piece& piece = request.pieces[0];
    const int error = Decode(request, request.target + piece.target_offset);
    if (error == 0) ZeroAfter(request, piece);
    return error;
  }
  uint8_t* scratch = Scratch(request.decoded_bytes);
  if (scratch == nullptr) return -ENOMEM;
  const int error = Decode(request, scratch);
  if (error == 0) Scatter(request, scratch);
  return error;
}

int Decoder::Decode(const DecodeRequest& request, uint8_t* out) {
  switch (request.codec) {
    case Codec::kLz4Block:
      return Lz4Block(request, out);
    case Codec::kZstd:
      return Zstd(request, out);
    case Codec::kInflate:
      return Inflate(request, out);
    case Codec::kNone:
      break;
  }
  return -EINVAL;
}

int Decoder::Zstd(const DecodeRequest& request, uint8_t* out) {
  if (zstd_ == nullptr) zstd_ = ZSTD_createDCtx();
  if (zstd_ == nullptr) return -ENOMEM;
  size_t consumed = 0;
  size_t decoded = 0;
  while (consumed < request.source_length) {
    const uint8_t* frame = request.source + consumed;
    const size_t left = request.source_length - consumed;
    if (!IsZstdFrame(frame, left)) return -EBADMSG;
    const size_t frame_bytes = ZSTD_findFrameCompressedSize(frame, left);
    if (ZSTD_isError(frame_bytes) != 0) return -EBADMSG;
    const size_t count = ZSTD_decompressDCtx(zstd_, out + decoded, request.decoded_bytes - decoded,
                                             frame, frame_bytes);
    if (ZSTD_isError(count) != 0) return -EBADMSG;
    consumed += frame_bytes;
    decoded += count;
  }
  return decoded == request.decoded_bytes ? 0 : -EBADMSG;
}

int Decoder::Inflate(const DecodeRequest& request, uint8_t* out) {
  if (inflate_ == nullptr) {
    inflate_ = std::make_unique<z_stream>();
    if (inflateInit2(inflate_.get(), kRawDeflate) != Z_OK) {
      inflate_.reset();
      return -ENOMEM;
    }
  }
  z_stream* stream = inflate_.get();
  inflateReset2(stream, kRawDeflate);
  if (request.bits > 0) inflatePrime(stream, request.bits, request.byte >> (8 - request.bits));
  if (request.dictionary_length > 0) {
    inflateSetDictionary(stream, request.dictionary, static_cast<uInt>(request.dictionary_length));
  }
  // zlib does not write to it, but has no const of its own.
  stream->next_in = const_cast<uint8_t*>(request.source);
  stream->avail_in = static_cast<uInt>(request.source_length);
  stream->next_out = out;
  stream->avail_out = static_cast<uInt>(request.decoded_bytes);
  for (;;) {
    const int status = inflate(stream, Z_NO_FLUSH);
    // Whatever follows the wanted bytes, even nonsense, was not asked for.
    if (stream->avail_out == 0) return 0;
    if (status == Z_MEM_ERROR) return -ENOMEM;
    // Without an end of the member only a want of input stops it short.
    if (status != Z_STREAM_END || !SkipToNextMember(stream)) return -EBADMSG;
    inflateReset2(stream, kRawDeflate);
  }
}

uint8_t* Decoder::Scratch(size_t bytes) {
  if (scratch_bytes_ < bytes) {
    scratch_.reset();
    scratch_.reset(new (std::nothrow) uint8_t[bytes]);
    scratch_bytes_ = scratch_ == nullptr ? 0 : bytes;
  }
  return scratch_.get();
}

}  // namespace erofsd

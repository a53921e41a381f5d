// SPDX-License-Identifier: Apache-2.0
// WriterPool and DecoderPool: the JS faces of a PoolHandle, alike but for the jobs they take and
// the names of their threads. Submitting gives a job number (or -EAGAIN when full, -ECANCELED
// when destroyed). Two pools, so that neither waits for the other: a writer's thread waits for
// the disk, a decoder's needs a core.
//
//   new WriterPool(threads, queueMax, onDone) -> start() -> jobs -> destroy()
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "args.h"
#include "families.h"
#include "pool-handle.h"

namespace erofsd {
namespace {

constexpr int64_t kThreadsMax = 64;
constexpr int64_t kQueueMax = 1 << 20;
constexpr int64_t kExtentsMax = 1 << 16;
constexpr int64_t kGranuleMax = 4096;
constexpr size_t kPiecesMax = 1 << 16;
constexpr int64_t kCodecMax = static_cast<int64_t>(Codec::kInflate);
// What the codecs' own types carry.
constexpr int64_t kSourceBytesMax = INT32_MAX;
constexpr size_t kDictionaryBytesMax = 32768;

class JobPool : public Napi::ObjectWrap<JobPool>, private PoolHandle::Owner {
 public:
  explicit JobPool(const Napi::CallbackInfo& info)
      : Napi::ObjectWrap<JobPool>(info), name_(static_cast<const char*>(info.Data())) {
    Args args(info, "JobPool");
    threads_ = static_cast<size_t>(args.Integer(0, "threads", 1, kThreadsMax));
    queue_max_ = static_cast<size_t>(args.Integer(1, "queueMax", 1, kQueueMax));
    const Napi::Function on_done = args.Function(2, "onDone");
    if (!args.failed()) on_done_ = Napi::Persistent(on_done);
  }

  // start() -> 0 | -errno; once.
  Napi::Value Start(const Napi::CallbackInfo& info);
  // pwrite(fd, bytes, bytesOffset, length, fileOffset, granule) -> job | -errno; ends with length
  Napi::Value Pwrite(const Napi::CallbackInfo& info);
  // seek(fd, offset, whence) -> job | -errno; ends with the position
  Napi::Value Seek(const Napi::CallbackInfo& info);
  // extents(fd, from, sizeBytes, maxExtents) -> job | -errno; ends with a Float64Array
  Napi::Value Extents(const Napi::CallbackInfo& info);
  // populate(bytes) -> job | -errno; ends with 0
  Napi::Value Populate(const Napi::CallbackInfo& info);
  // decode(codec, source, sourceOffset, sourceLength, decodedBytes, dictionary, bits, byte,
  //        target, pieces) -> job | -errno; ends with 0
  Napi::Value Decode(const Napi::CallbackInfo& info);
  // decodeMany(source, target, units) -> job | -errno; ends with a Float64Array, 0 or -errno of
  // each. `units`, of each: codec, offset in the source, length there, decoded bytes, number of
  // pieces, the pieces' triples. For units that need no dictionary.
  Napi::Value DecodeMany(const Napi::CallbackInfo& info);
  // destroy() -> job | -errno; ends, after all others, with 0 when the threads are gone
  Napi::Value Destroy(const Napi::CallbackInfo& info);

 private:
  void Detach() override {
    handle_ = nullptr;
    Unref();
  }
  int64_t Submit(Job job, std::initializer_list<napi_value> buffers) {
    return handle_ == nullptr ? -ECANCELED : handle_->Submit(std::move(job), buffers);
  }

  const char* const name_;  // of the threads
  size_t threads_ = 0;
  size_t queue_max_ = 0;
  PoolHandle* handle_ = nullptr;  // from start() until the threads are gone; this is Ref'd then
  Napi::FunctionReference on_done_;
};

Napi::Value JobPool::Start(const Napi::CallbackInfo& info) {
  if (on_done_.IsEmpty()) return Result(info, -EALREADY);
  auto* handle = new PoolHandle(name_, queue_max_, this);
  const int error = PoolHandle::Start(info.Env(), handle, threads_, on_done_.Value());
  if (error == 0) {
    on_done_.Reset();
    handle_ = handle;
    Ref();
  }
  return Result(info, error);
}

Napi::Value JobPool::Pwrite(const Napi::CallbackInfo& info) {
  Args args(info, "pwrite");
  Job job;
  job.kind = Job::Kind::kWrite;
  job.fd = args.Fd(0, "fd");
  const Bytes bytes = args.Uint8Array(1, "bytes");
  const auto limit = static_cast<int64_t>(bytes.length);
  const int64_t bytes_offset = args.Integer(2, "bytesOffset", 0, limit);
  const int64_t length = args.Integer(3, "length", 0, limit - bytes_offset);
  job.offset = args.Integer(4, "fileOffset", 0, kSafeIntegerMax - length);
  const int64_t granule = args.Integer(5, "granule", 1, kGranuleMax);
  if (args.failed()) return info.Env().Undefined();
  job.data = bytes.data + bytes_offset;
  job.length = static_cast<size_t>(length);
  job.granule = static_cast<size_t>(granule);
  const std::string multiple = "must be a multiple of " + std::to_string(granule);
  args.Require(length % granule == 0, "length", multiple);
  args.Require(job.offset % granule == 0, "fileOffset", multiple);
  args.Require(reinterpret_cast<uintptr_t>(job.data) % job.granule == 0, "bytesOffset",
               "must give an address that is a multiple of " + std::to_string(granule));
  if (args.failed()) return info.Env().Undefined();
  return Result(info, Submit(std::move(job), {bytes.value}));
}

Napi::Value JobPool::Seek(const Napi::CallbackInfo& info) {
  Args args(info, "seek");
  Job job;
  job.kind = Job::Kind::kSeek;
  job.fd = args.Fd(0, "fd");
  job.offset = args.Integer(1, "offset", 0, kSafeIntegerMax);
  job.whence = static_cast<int>(args.Integer(2, "whence", SEEK_SET, SEEK_HOLE));
  if (args.failed()) return info.Env().Undefined();
  return Result(info, Submit(std::move(job), {}));
}

Napi::Value JobPool::Extents(const Napi::CallbackInfo& info) {
  Args args(info, "extents");
  Job job;
  job.kind = Job::Kind::kExtents;
  job.fd = args.Fd(0, "fd");
  job.offset = args.Integer(1, "from", 0, kSafeIntegerMax);
  job.end = args.Integer(2, "sizeBytes", 0, kSafeIntegerMax);
  job.extents_max = static_cast<size_t>(args.Integer(3, "maxExtents", 1, kExtentsMax));
  if (args.failed()) return info.Env().Undefined();
  return Result(info, Submit(std::move(job), {}));
}

Napi::Value JobPool::Populate(const Napi::CallbackInfo& info) {
  Args args(info, "populate");
  Job job;
  job.kind = Job::Kind::kPopulate;
  const Bytes bytes = args.Uint8Array(0, "bytes");
  if (args.failed()) return info.Env().Undefined();
  job.data = bytes.data;
  job.length = bytes.length;
  return Result(info, Submit(std::move(job), {bytes.value}));
}

// Numbers as JS gives them: triples of from, length, offset in the target.
bool ReadPieces(Args& args, const Numbers& triples, const Bytes& target, DecodeRequest& request) {
  args.Require(triples.length % 3 == 0 && triples.length / 3 <= kPiecesMax, "pieces",
               "must be at most " + std::to_string(kPiecesMax) + " triples");
  if (args.failed()) return false;
  request.pieces.reserve(triples.length / 3);
  for (size_t i = 0; i < triples.length; i += 3) {
    const Piece piece{triples.data[i], triples.data[i + 1], triples.data[i + 2]};
    const size_t end = piece.target_offset + piece.length;
    const size_t padded = (end + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
    args.Require(piece.from + piece.length <= request.decoded_bytes, "pieces",
                 "must be within the decoded bytes");
    args.Require(piece.target_offset % kBlockBytes == 0, "pieces", "must begin at whole blocks");
    args.Require(padded <= target.length, "pieces", "must end within the target");
    if (args.failed()) return false;
    request.pieces.push_back(piece);
  }
  return true;
}

// Codecs write while they read: memory that is both would be nonsense.
bool Overlap(const DecodeRequest& request, const Bytes& target) {
  const std::less<const uint8_t*> before;
  return before(request.source, target.data + target.length) &&
         before(target.data, request.source + request.source_length);
}

Napi::Value JobPool::Decode(const Napi::CallbackInfo& info) {
  Args args(info, "decode");
  Job job;
  job.kind = Job::Kind::kDecode;
  DecodeRequest& request = job.decode;
  request.codec = static_cast<Codec>(args.Integer(0, "codec", 0, kCodecMax));
  const Bytes source = args.Uint8Array(1, "source");
  const auto limit = static_cast<int64_t>(source.length);
  const int64_t offset = args.Integer(2, "sourceOffset", 0, limit);
  const int64_t length_max = std::min(limit - offset, kSourceBytesMax);
  request.source_length = static_cast<size_t>(args.Integer(3, "sourceLength", 0, length_max));
  request.source = source.data + offset;
  request.decoded_bytes =
      static_cast<size_t>(args.Integer(4, "decodedBytes", 1, int64_t{kDecodedBytesMax}));
  const Bytes dictionary = args.Uint8Array(5, "dictionary");
  args.Require(dictionary.length <= kDictionaryBytesMax, "dictionary",
               "must have at most " + std::to_string(kDictionaryBytesMax) + " bytes");
  request.dictionary = dictionary.data;
  request.dictionary_length = dictionary.length;
  request.bits = static_cast<int>(args.Integer(6, "bits", 0, 7));
  request.byte = static_cast<int>(args.Integer(7, "byte", 0, 255));
  const Bytes target = args.Uint8Array(8, "target");
  const Numbers pieces = args.Uint32Array(9, "pieces");
  request.target = target.data;
  if (args.failed() || !ReadPieces(args, pieces, target, request)) return info.Env().Undefined();
  args.Require(request.IsOnePiece() || request.decoded_bytes <= kScratchBytesMax, "decodedBytes",
               "must be at most " + std::to_string(kScratchBytesMax) + ", or one piece");
  args.Require(!Overlap(request, target), "target", "must be other memory than the source");
  if (args.failed()) return info.Env().Undefined();
  return Result(info, Submit(std::move(job), {source.value, dictionary.value, target.value}));
}

// The next unit of `units` from `at` on; false (and a thrown error) when it is not a unit.
bool ReadUnit(Args& args, const Numbers& units, size_t* at, const Bytes& source,
              const Bytes& target, DecodeRequest& request) {
  constexpr size_t kHead = 5;
  args.Require(units.length - *at >= kHead, "units", "must be whole units");
  if (args.failed()) return false;
  const uint32_t* head = units.data + *at;
  const size_t pieces = head[4];
  args.Require(head[0] <= kCodecMax, "units", "must have known codecs");
  args.Require(size_t{head[1]} + head[2] <= source.length, "units", "must lie in the source");
  args.Require(head[3] >= 1 && head[3] <= kDecodedBytesMax, "units", "must decode to something");
  args.Require(pieces <= (units.length - *at - kHead) / 3, "units", "must have their pieces");
  if (args.failed()) return false;
  request.codec = static_cast<Codec>(head[0]);
  request.source = source.data + head[1];
  request.source_length = head[2];
  request.decoded_bytes = head[3];
  request.target = target.data;
  *at += kHead + 3 * pieces;
  const Numbers triples{head + kHead, 3 * pieces};
  if (!ReadPieces(args, triples, target, request)) return false;
  args.Require(request.IsOnePiece() || request.decoded_bytes <= kScratchBytesMax, "units",
               "must decode to at most " + std::to_string(kScratchBytesMax) + ", or one piece");
  return !args.failed();
}

Napi::Value JobPool::DecodeMany(const Napi::CallbackInfo& info) {
  Args args(info, "decodeMany");
  Job job;
  job.kind = Job::Kind::kDecodeMany;
  const Bytes source = args.Uint8Array(0, "source");
  const Bytes target = args.Uint8Array(1, "target");
  const Numbers units = args.Uint32Array(2, "units");
  if (args.failed()) return info.Env().Undefined();
  for (size_t at = 0; at < units.length;) {
    DecodeRequest request;
    if (!ReadUnit(args, units, &at, source, target, request)) return info.Env().Undefined();
    args.Require(!Overlap(request, target), "target", "must be other memory than the source");
    if (args.failed()) return info.Env().Undefined();
    job.decodes.push_back(std::move(request));
  }
  return Result(info, Submit(std::move(job), {source.value, target.value}));
}

Napi::Value JobPool::Destroy(const Napi::CallbackInfo& info) {
  return Result(info, handle_ == nullptr ? -ECANCELED : handle_->Destroy());
}

}  // namespace

void ExportJobPools(Napi::Env env, Napi::Object exports) {
  static constexpr char kWriter[] = "erofsd-write";
  static constexpr char kDecoder[] = "erofsd-decode";
  exports.Set("WriterPool",
              JobPool::DefineClass(env, "WriterPool",
                                   {JobPool::InstanceMethod<&JobPool::Start>("start"),
                                    JobPool::InstanceMethod<&JobPool::Pwrite>("pwrite"),
                                    JobPool::InstanceMethod<&JobPool::Seek>("seek"),
                                    JobPool::InstanceMethod<&JobPool::Extents>("extents"),
                                    JobPool::InstanceMethod<&JobPool::Populate>("populate"),
                                    JobPool::InstanceMethod<&JobPool::Destroy>("destroy")},
                                   const_cast<char*>(kWriter)));
  exports.Set("DecoderPool",
              JobPool::DefineClass(env, "DecoderPool",
                                   {JobPool::InstanceMethod<&JobPool::Start>("start"),
                                    JobPool::InstanceMethod<&JobPool::Decode>("decode"),
                                    JobPool::InstanceMethod<&JobPool::DecodeMany>("decodeMany"),
                                    JobPool::InstanceMethod<&JobPool::Destroy>("destroy")},
                                   const_cast<char*>(kDecoder)));
}

}  // namespace erofsd

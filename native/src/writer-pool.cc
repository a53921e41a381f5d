// SPDX-License-Identifier: Apache-2.0
// WriterPool: the JS face of Workers. Submitting gives a job number (or -EAGAIN when full,
// -ECANCELED when destroyed); ends come in batches, on the JS thread, through one function:
// onDone([job, result, job, result, ...]), result = number, or Float64Array for extents.
// The buffer of a write is referenced until its end is delivered. An idle pool does not keep the
// process alive, a pending job does.
//
//   new WriterPool(threads, queueMax, onDone) -> start() -> jobs -> destroy()
//
// Teardown: QuiesceHook stops and joins the threads before any memory they read is freed.
#include <unistd.h>

#include <cstring>
#include <optional>

#include "args.h"
#include "callback.h"
#include "families.h"
#include "loop-handle.h"
#include "workers.h"

namespace erofsd {
namespace {

constexpr int64_t kThreadsMax = 64;
constexpr int64_t kQueueMax = 1 << 20;
constexpr int64_t kExtentsMax = 1 << 16;
constexpr int64_t kGranuleMax = 4096;

class WriterPool;

class PoolHandle : public LoopHandle {
 public:
  PoolHandle(size_t queue_max, WriterPool* owner)
      : owner_(owner), workers_(queue_max, Wake, &async_) {}

  // 0 or -errno; on failure the object is gone.
  static int Start(napi_env env, PoolHandle* self, size_t threads, napi_value on_done);
  // Job number or -errno. Takes a reference to `bytes` when there is one.
  int64_t Submit(Job job, napi_value bytes);
  int64_t Destroy();

 private:
  ~PoolHandle() override = default;
  static void Wake(void* async) { uv_async_send(static_cast<uv_async_t*>(async)); }
  static void OnWake(uv_async_t* async);
  static void QuiesceHook(void* self);
  void Drain();
  void Release(Job& job);
  void OnTeardown() override;

  napi_env env_ = nullptr;
  WriterPool* owner_;
  Callback on_done_;
  uv_async_t async_;
  Workers workers_;
  int64_t next_id_ = 1;
  size_t pending_ = 0;
  std::optional<int64_t> destroy_id_;
};

class WriterPool : public Napi::ObjectWrap<WriterPool> {
 public:
  explicit WriterPool(const Napi::CallbackInfo& info) : Napi::ObjectWrap<WriterPool>(info) {
    Args args(info, "WriterPool");
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
  // destroy() -> job | -errno; ends, after all others, with 0 when the threads are gone
  Napi::Value Destroy(const Napi::CallbackInfo& info);

  // The threads are gone, or the environment goes away.
  void Detach() {
    handle_ = nullptr;
    Unref();
  }

 private:
  int64_t Submit(const Job& job, napi_value bytes) {
    return handle_ == nullptr ? -ECANCELED : handle_->Submit(job, bytes);
  }

  size_t threads_ = 0;
  size_t queue_max_ = 0;
  PoolHandle* handle_ = nullptr;  // from start() until the threads are gone; this is Ref'd then
  Napi::FunctionReference on_done_;
};

int PoolHandle::Start(napi_env env, PoolHandle* self, size_t threads, napi_value on_done) {
  uv_loop_t* loop = LoopOf(env);
  int error = loop == nullptr ? UV_ECANCELED : uv_async_init(loop, &self->async_, OnWake);
  if (error != 0) {
    delete self;
    return error;
  }
  self->env_ = env;
  uv_unref(reinterpret_cast<uv_handle_t*>(&self->async_));
  self->Attach(env, reinterpret_cast<uv_handle_t*>(&self->async_));
  self->on_done_.Set(env, on_done, "erofsd.WriterPool");
  error = self->workers_.Start(threads);
  if (error != 0) {
    self->Close();
    return error;
  }
  napi_add_env_cleanup_hook(env, QuiesceHook, self);
  return 0;
}

int64_t PoolHandle::Submit(Job job, napi_value bytes) {
  const int error = workers_.CanSubmit();
  if (error != 0) return error;
  if (bytes != nullptr) {
    if (napi_create_reference(env_, bytes, 1, &job.bytes) != napi_ok) return -ENOMEM;
    // Hooks run last in, first out. An external buffer has one of its own that frees its memory,
    // so ours has to be newer than any buffer in use.
    napi_remove_env_cleanup_hook(env_, QuiesceHook, this);
    napi_add_env_cleanup_hook(env_, QuiesceHook, this);
  }
  job.id = next_id_++;
  if (pending_++ == 0) uv_ref(reinterpret_cast<uv_handle_t*>(&async_));
  workers_.Submit(std::make_unique<Job>(job));
  return job.id;
}

int64_t PoolHandle::Destroy() {
  if (destroy_id_) return -ECANCELED;
  destroy_id_ = next_id_++;
  if (pending_++ == 0) uv_ref(reinterpret_cast<uv_handle_t*>(&async_));
  workers_.Stop();
  return *destroy_id_;
}

void PoolHandle::OnWake(uv_async_t* async) {
  auto* self = static_cast<PoolHandle*>(async->data);
  if (!self->closing()) self->Drain();
}

// What JS is told about `job`, or nullptr when the environment can no longer say anything.
napi_value ResultOf(napi_env env, const Job& job) {
  napi_value result = nullptr;
  if (job.kind != Job::Kind::kExtents || job.result < 0) {
    return napi_create_double(env, static_cast<double>(job.result), &result) == napi_ok ? result
                                                                                        : nullptr;
  }
  void* data = nullptr;
  napi_value buffer = nullptr;
  const size_t bytes = job.extents.size() * sizeof(double);
  if (napi_create_arraybuffer(env, bytes, &data, &buffer) != napi_ok) return nullptr;
  if (bytes > 0) std::memcpy(data, job.extents.data(), bytes);
  return napi_create_typedarray(env, napi_float64_array, job.extents.size(), buffer, 0, &result) ==
                 napi_ok
             ? result
             : nullptr;
}

bool Append(napi_env env, napi_value batch, uint32_t* at, int64_t id, napi_value result) {
  napi_value job = nullptr;
  return result != nullptr && napi_create_double(env, static_cast<double>(id), &job) == napi_ok &&
         napi_set_element(env, batch, (*at)++, job) == napi_ok &&
         napi_set_element(env, batch, (*at)++, result) == napi_ok;
}

// A terminated worker's loop runs once more before its cleanup hooks: JS cannot be called then,
// and each call of Node-API may fail. Hence no wrappers that throw in here.
void PoolHandle::Drain() {
  const Napi::HandleScope scope(env_);
  bool finished = false;
  const Workers::Jobs done = workers_.Take(&finished);
  napi_value batch = nullptr;
  uint32_t at = 0;
  bool told = napi_create_array(env_, &batch) == napi_ok;
  for (const std::unique_ptr<Job>& job : done) {
    told = told && Append(env_, batch, &at, job->id, ResultOf(env_, *job));
    Release(*job);
  }
  pending_ -= done.size();
  if (finished && destroy_id_) {
    workers_.Join();
    --pending_;
    napi_value zero = nullptr;
    napi_create_double(env_, 0, &zero);
    told = told && Append(env_, batch, &at, *destroy_id_, zero);
    napi_remove_env_cleanup_hook(env_, QuiesceHook, this);
    owner_->Detach();
    Close();
  }
  if (pending_ == 0) uv_unref(reinterpret_cast<uv_handle_t*>(&async_));
  if (told && at > 0) on_done_.Call({batch});
}

void PoolHandle::Release(Job& job) {
  if (job.bytes != nullptr) napi_delete_reference(env_, job.bytes);
  job.bytes = nullptr;
}

// JS runs no more, so nobody can be told; what matters is that the threads are gone.
void PoolHandle::QuiesceHook(void* arg) {
  auto* self = static_cast<PoolHandle*>(arg);
  self->workers_.Stop();
  self->workers_.Join();
  bool finished = false;
  for (const std::unique_ptr<Job>& job : self->workers_.Take(&finished)) self->Release(*job);
}

void PoolHandle::OnTeardown() {
  QuiesceHook(this);
  napi_remove_env_cleanup_hook(env_, QuiesceHook, this);
  owner_->Detach();
}

Napi::Value WriterPool::Start(const Napi::CallbackInfo& info) {
  if (on_done_.IsEmpty()) return Result(info, -EALREADY);
  auto* handle = new PoolHandle(queue_max_, this);
  const int error = PoolHandle::Start(info.Env(), handle, threads_, on_done_.Value());
  if (error == 0) {
    on_done_.Reset();
    handle_ = handle;
    Ref();
  }
  return Result(info, error);
}

Napi::Value WriterPool::Pwrite(const Napi::CallbackInfo& info) {
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
  return Result(info, Submit(job, bytes.value));
}

Napi::Value WriterPool::Seek(const Napi::CallbackInfo& info) {
  Args args(info, "seek");
  Job job;
  job.kind = Job::Kind::kSeek;
  job.fd = args.Fd(0, "fd");
  job.offset = args.Integer(1, "offset", 0, kSafeIntegerMax);
  job.whence = static_cast<int>(args.Integer(2, "whence", SEEK_SET, SEEK_HOLE));
  if (args.failed()) return info.Env().Undefined();
  return Result(info, Submit(job, nullptr));
}

Napi::Value WriterPool::Extents(const Napi::CallbackInfo& info) {
  Args args(info, "extents");
  Job job;
  job.kind = Job::Kind::kExtents;
  job.fd = args.Fd(0, "fd");
  job.offset = args.Integer(1, "from", 0, kSafeIntegerMax);
  job.end = args.Integer(2, "sizeBytes", 0, kSafeIntegerMax);
  job.extents_max = static_cast<size_t>(args.Integer(3, "maxExtents", 1, kExtentsMax));
  if (args.failed()) return info.Env().Undefined();
  return Result(info, Submit(job, nullptr));
}

Napi::Value WriterPool::Destroy(const Napi::CallbackInfo& info) {
  return Result(info, handle_ == nullptr ? -ECANCELED : handle_->Destroy());
}

}  // namespace

void ExportWriterPool(Napi::Env env, Napi::Object exports) {
  exports.Set("WriterPool", WriterPool::DefineClass(
                                env, "WriterPool",
                                {WriterPool::InstanceMethod<&WriterPool::Start>("start"),
                                 WriterPool::InstanceMethod<&WriterPool::Pwrite>("pwrite"),
                                 WriterPool::InstanceMethod<&WriterPool::Seek>("seek"),
                                 WriterPool::InstanceMethod<&WriterPool::Extents>("extents"),
                                 WriterPool::InstanceMethod<&WriterPool::Destroy>("destroy")}));
}

}  // namespace erofsd

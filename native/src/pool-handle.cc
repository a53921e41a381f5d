// SPDX-License-Identifier: Apache-2.0
// The threads of a pool and its event loop; see pool-handle.h.
#include "pool-handle.h"

#include <cerrno>
#include <cstring>
#include <utility>

namespace erofsd {
namespace {

// What JS is told about `job`, or nullptr when the environment can no longer say anything.
napi_value ResultOf(napi_env env, const Job& job) {
  napi_value result = nullptr;
  const bool has_numbers = job.kind == Job::Kind::kExtents || job.kind == Job::Kind::kDecodeMany;
  if (!has_numbers || job.result < 0) {
    return napi_create_double(env, static_cast<double>(job.result), &result) == napi_ok ? result
                                                                                        : nullptr;
  }
  void* data = nullptr;
  napi_value buffer = nullptr;
  const size_t bytes = job.numbers.size() * sizeof(double);
  if (napi_create_arraybuffer(env, bytes, &data, &buffer) != napi_ok) return nullptr;
  if (bytes > 0) std::memcpy(data, job.numbers.data(), bytes);
  return napi_create_typedarray(env, napi_float64_array, job.numbers.size(), buffer, 0, &result) ==
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

}  // namespace

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
  self->on_done_.Set(env, on_done, "erofsd.JobPool");
  error = self->workers_.Start(threads);
  if (error != 0) {
    self->Close();
    return error;
  }
  napi_add_env_cleanup_hook(env, QuiesceHook, self);
  return 0;
}

int64_t PoolHandle::Submit(Job job, std::initializer_list<napi_value> buffers) {
  const int error = workers_.CanSubmit();
  if (error != 0) return error;
  size_t kept = 0;
  for (napi_value buffer : buffers) {
    if (napi_create_reference(env_, buffer, 1, &job.kept[kept]) != napi_ok) {
      Release(job);
      return -ENOMEM;
    }
    job.memory[kept++] = ShareMemory(env_, buffer);
  }
  job.id = next_id_++;
  const int64_t id = job.id;
  if (pending_++ == 0) uv_ref(reinterpret_cast<uv_handle_t*>(&async_));
  workers_.Submit(std::make_unique<Job>(std::move(job)));
  return id;
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
  for (napi_ref& reference : job.kept) {
    if (reference != nullptr) napi_delete_reference(env_, reference);
    reference = nullptr;
  }
  job.memory = {};
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

}  // namespace erofsd

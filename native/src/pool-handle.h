// SPDX-License-Identifier: Apache-2.0
// Workers on a JS event loop: submitting on the JS thread, ends in batches through one function,
// onDone([job, result, job, result, ...]), result = number, or Float64Array for extents. The
// buffers of a job are referenced until its end is delivered. An idle pool does not keep the
// process alive, a pending job does.
//
// Teardown: QuiesceHook stops and joins the threads; what they use is not freed before (memory.h).
#pragma once

#include <initializer_list>
#include <optional>

#include "callback.h"
#include "loop-handle.h"
#include "workers.h"

namespace erofsd {

class PoolHandle : public LoopHandle {
 public:
  class Owner {
   public:
    // The threads are gone, or the environment goes away: the handle must not be used any more.
    virtual void Detach() = 0;

   protected:
    ~Owner() = default;
  };

  PoolHandle(const char* name, size_t queue_max, Owner* owner)
      : owner_(owner), workers_(name, queue_max, Wake, &async_) {}

  // 0 or -errno; on failure the object is gone.
  static int Start(napi_env env, PoolHandle* self, size_t threads, napi_value on_done);
  // Job number or -errno. Takes a reference to each of `buffers`.
  int64_t Submit(Job job, std::initializer_list<napi_value> buffers);
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
  Owner* owner_;
  Callback on_done_;
  uv_async_t async_;
  Workers workers_;
  int64_t next_id_ = 1;
  size_t pending_ = 0;
  std::optional<int64_t> destroy_id_;
};

}  // namespace erofsd

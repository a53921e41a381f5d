// SPDX-License-Identifier: Apache-2.0
// A fixed number of threads and a bounded queue of jobs; knows nothing of JS. `wake` is called
// from a thread (or from Stop) whenever there is something to Take; it must be callable until
// Join has returned.
//
//   JS thread:    Start -> Submit* / Take* -> Stop -> Take until finished -> Join -> destructor
//   each thread:  Main = (wait, Job::Run, done list, wake)* until stopped
#pragma once

#include <pthread.h>

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "job.h"

namespace erofsd {

class Workers {
 public:
  using Jobs = std::vector<std::unique_ptr<Job>>;

  // `name` (at most 15 characters, a literal) is what ps and top show.
  Workers(const char* name, size_t queue_max, void (*wake)(void*), void* wake_arg)
      : name_(name), queue_max_(queue_max), wake_(wake), wake_arg_(wake_arg) {}
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  // 0 or -errno; on failure no thread is left.
  int Start(size_t thread_count);
  // 0, -EAGAIN (queue_max jobs wait already) or -ECANCELED (stopped).
  int CanSubmit();
  // Only after CanSubmit gave 0, on the same thread.
  void Submit(std::unique_ptr<Job> job);
  // Jobs that have ended since the last call, in the order of their ends. `*finished`: stopped,
  // every thread has left its loop, and nothing remains to take.
  Jobs Take(bool* finished);
  // Idempotent. Running jobs end normally, waiting ones with -ECANCELED.
  void Stop();
  // After Stop; waits for running jobs. Idempotent.
  void Join();

 private:
  static void* Main(void* self);
  void Loop();

  const char* const name_;
  const size_t queue_max_;
  void (*const wake_)(void*);
  void* const wake_arg_;
  std::vector<pthread_t> threads_;

  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::deque<std::unique_ptr<Job>> queue_;
  Jobs done_;
  size_t live_threads_ = 0;
  bool stopping_ = false;
};

}  // namespace erofsd

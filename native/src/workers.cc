// SPDX-License-Identifier: Apache-2.0
// Threads and their queue; see workers.h.
#include "workers.h"

#include <csignal>
#include <utility>

namespace erofsd {
namespace {

// A syscall needs a few hundred bytes of stack, a decoder some kilobytes.
constexpr size_t kStackBytes = 256 * 1024;

}  // namespace

int Workers::Start(size_t thread_count) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  // Signals are the business of Node's own thread: our threads inherit a full mask.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = 0;
  while (error == 0 && threads_.size() < thread_count) {
    pthread_t thread;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ++live_threads_;
    }
    error = pthread_create(&thread, &attributes, Main, this);
    if (error == 0) {
      threads_.push_back(thread);
    } else {
      const std::lock_guard<std::mutex> lock(mutex_);
      --live_threads_;
    }
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  if (error != 0) {
    Stop();
    Join();
  }
  return -error;
}

int Workers::CanSubmit() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (stopping_) return -ECANCELED;
  return queue_.size() < queue_max_ ? 0 : -EAGAIN;
}

void Workers::Submit(std::unique_ptr<Job> job) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    queue_.push_back(std::move(job));
  }
  changed_.notify_one();
}

Workers::Jobs Workers::Take(bool* finished) {
  const std::lock_guard<std::mutex> lock(mutex_);
  *finished = stopping_ && live_threads_ == 0;
  return std::exchange(done_, Jobs());
}

void Workers::Stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
    for (std::unique_ptr<Job>& job : queue_) {
      job->result = -ECANCELED;
      done_.push_back(std::move(job));
    }
    queue_.clear();
  }
  changed_.notify_all();
  if (!threads_.empty()) wake_(wake_arg_);
}

void Workers::Join() {
  for (const pthread_t thread : threads_) pthread_join(thread, nullptr);
  threads_.clear();
}

void* Workers::Main(void* self) {
  auto* workers = static_cast<Workers*>(self);
  pthread_setname_np(pthread_self(), workers->name_);
  workers->Loop();
  return nullptr;
}

void Workers::Loop() {
  Decoder decoder;
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) break;
    std::unique_ptr<Job> job = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    job->Run(decoder);
    lock.lock();
    done_.push_back(std::move(job));
    // One wake for a batch: whoever takes, takes all.
    if (done_.size() == 1) wake_(wake_arg_);
  }
  if (--live_threads_ == 0) wake_(wake_arg_);
}

}  // namespace erofsd

// SPDX-License-Identifier: Apache-2.0
// FdWatcher: tells when an fd is readable (uv_poll on the environment's loop, level-triggered), or,
// with `isPriority`, when it has an exceptional condition (POLLPRI).
// It asks for POLLIN only: /dev/cachefiles raises POLLOUT for "short of space", for minutes. It
// does not own the fd: stop or close the watcher before the fd is closed (both leave the epoll
// set at once).
//
//   new FdWatcher(fd, onReady, isPriority?)  -> start() <-> stop() -> close()
//
// onReady(events): events > 0 = libuv's event bits, or -errno when polling failed and has stopped.
#include "args.h"
#include "callback.h"
#include "families.h"
#include "loop-handle.h"

namespace erofsd {
namespace {

class FdWatcher;

class PollHandle : public LoopHandle {
 public:
  // A handle that polls nothing yet, or nullptr and `*error` = -errno.
  static PollHandle* New(napi_env env, int fd, FdWatcher* owner, int* error);

  int Start(int events) { return uv_poll_start(&poll_, events, OnPoll); }
  void Stop() { uv_poll_stop(&poll_); }
  void Disown() {
    owner_ = nullptr;
    Close();
  }
  Callback& on_ready() { return on_ready_; }

 private:
  static void OnPoll(uv_poll_t* poll, int status, int events);
  void OnTeardown() override;

  napi_env env_ = nullptr;
  FdWatcher* owner_ = nullptr;
  Callback on_ready_;
  uv_poll_t poll_;
};

class FdWatcher : public Napi::ObjectWrap<FdWatcher> {
 public:
  explicit FdWatcher(const Napi::CallbackInfo& info) : Napi::ObjectWrap<FdWatcher>(info) {
    Args args(info, "FdWatcher");
    fd_ = args.Fd(0, "fd");
    const Napi::Function on_ready = args.Function(1, "onReady");
    if (info.Length() > 2 && args.Boolean(2, "isPriority")) events_ = UV_PRIORITIZED;
    if (!args.failed()) on_ready_ = Napi::Persistent(on_ready);
  }

  ~FdWatcher() override {
    if (handle_ != nullptr) handle_->Disown();
  }

  // start() -> 0 | -errno; harmless while running, -EBADF after close().
  Napi::Value Start(const Napi::CallbackInfo& info);
  void Stop(const Napi::CallbackInfo&) {
    if (handle_ == nullptr) return;
    handle_->Stop();
    SetRunning(false);
  }
  void Close(const Napi::CallbackInfo&) {
    if (handle_ != nullptr) handle_->Disown();
    Detach();
  }

  // The handle has stopped by itself, or the environment goes away.
  void SetRunning(bool running);
  void Detach() {
    handle_ = nullptr;
    closed_ = true;
    on_ready_.Reset();
    SetRunning(false);
  }

 private:
  int fd_ = -1;
  int events_ = UV_READABLE;
  bool running_ = false;
  bool closed_ = false;
  PollHandle* handle_ = nullptr;
  Napi::FunctionReference on_ready_;
};

PollHandle* PollHandle::New(napi_env env, int fd, FdWatcher* owner, int* error) {
  uv_loop_t* loop = LoopOf(env);
  if (loop == nullptr) {
    *error = UV_ECANCELED;
    return nullptr;
  }
  auto* self = new PollHandle();
  *error = uv_poll_init(loop, &self->poll_, fd);
  if (*error != 0) {
    delete self;
    return nullptr;
  }
  self->env_ = env;
  self->owner_ = owner;
  self->Attach(env, reinterpret_cast<uv_handle_t*>(&self->poll_));
  return self;
}

void PollHandle::OnPoll(uv_poll_t* poll, int status, int events) {
  auto* self = static_cast<PollHandle*>(poll->data);
  const Napi::HandleScope scope(self->env_);
  if (status < 0 && self->owner_ != nullptr) {
    self->Stop();
    self->owner_->SetRunning(false);
  }
  self->on_ready_.Call({Napi::Number::New(self->env_, status < 0 ? status : events)});
}

void PollHandle::OnTeardown() {
  if (owner_ != nullptr) owner_->Detach();
  owner_ = nullptr;
}

Napi::Value FdWatcher::Start(const Napi::CallbackInfo& info) {
  if (closed_) return Result(info, -EBADF);
  if (handle_ == nullptr) {
    int error = 0;
    handle_ = PollHandle::New(info.Env(), fd_, this, &error);
    if (handle_ == nullptr) return Result(info, error);
    handle_->on_ready().Set(info.Env(), on_ready_.Value(), "erofsd.FdWatcher");
  }
  const int error = handle_->Start(events_);
  if (error == 0) SetRunning(true);
  return Result(info, error);
}

// A running watcher keeps its own JS object alive; a forgotten stopped one may be collected.
void FdWatcher::SetRunning(bool running) {
  if (running_ == running) return;
  running_ = running;
  if (running) {
    Ref();
  } else {
    Unref();
  }
}

}  // namespace

void ExportFdWatcher(Napi::Env env, Napi::Object exports) {
  exports.Set("FdWatcher",
              FdWatcher::DefineClass(env, "FdWatcher",
                                     {FdWatcher::InstanceMethod<&FdWatcher::Start>("start"),
                                      FdWatcher::InstanceMethod<&FdWatcher::Stop>("stop"),
                                      FdWatcher::InstanceMethod<&FdWatcher::Close>("close")}));
}

}  // namespace erofsd

// SPDX-License-Identifier: Apache-2.0
// The JS face of UnixExchange, on libuv's threads. What is at fault may be the peer, so every
// conversation has a time limit, and the event loop never waits for it.
//   exchange(path, bytes, fd | -1, timeoutMs, bytesMax | -1) -> Promise<[syscall, result, bytes,
//   fd]>
// result: 0 or -errno; bytesMax -1: nothing is received. The fd to send is the caller's and must
// stay open until then; a received one becomes the caller's (-1: none came).
//
//   [JS] constructor -> [libuv] Execute -> [JS] OnOK -> destructor, which closes an fd nobody took
#include <sys/socket.h>

#include <cstring>
#include <limits>

#include "args.h"
#include "families.h"
#include "syscall.h"
#include "unix-exchange.h"

namespace erofsd {
namespace {

constexpr int64_t kTimeoutMsMax = 3'600'000;
constexpr int64_t kBytesMax = 1 << 30;

class ExchangeWorker : public Napi::AsyncWorker {
 public:
  explicit ExchangeWorker(Napi::Env env)
      : Napi::AsyncWorker(env, "erofsd.exchange"), deferred_(Napi::Promise::Deferred::New(env)) {}

  UnixExchange exchange;
  Napi::Promise Promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override { result_ = exchange.Run(); }

  void OnOK() override {
    const Napi::Env env = Env();
    const std::vector<uint8_t>& received = exchange.received;
    Napi::Uint8Array bytes = Napi::Uint8Array::New(env, received.size());
    if (!received.empty()) std::memcpy(bytes.Data(), received.data(), received.size());
    Napi::Array answer = Napi::Array::New(env, 4);
    answer.Set(0U, exchange.syscall);
    answer.Set(1U, result_);
    answer.Set(2U, bytes);
    answer.Set(3U, result_ == 0 ? exchange.TakeFd() : -1);
    deferred_.Resolve(answer);
  }

 private:
  Napi::Promise::Deferred deferred_;
  int result_ = 0;
};

Napi::Value Exchange(const Napi::CallbackInfo& info) {
  Args args(info, "exchange");
  const std::string path = args.Text(0, "socketPath");
  const Bytes bytes = args.Uint8Array(1, "bytes");
  const int64_t fd = args.Integer(2, "fd", -1, std::numeric_limits<int>::max());
  const int64_t timeout_ms = args.Integer(3, "timeoutMs", 1, kTimeoutMsMax);
  const int64_t bytes_max = args.Integer(4, "bytesMax", -1, kBytesMax);
  if (args.failed()) return info.Env().Undefined();
  auto* worker = new ExchangeWorker(info.Env());
  UnixExchange& exchange = worker->exchange;
  exchange.path = path;
  exchange.to_send.assign(bytes.data, bytes.data + bytes.length);
  exchange.fd_to_send = static_cast<int>(fd);
  exchange.timeout_ms = timeout_ms;
  exchange.receives = bytes_max >= 0;
  exchange.bytes_max = exchange.receives ? static_cast<size_t>(bytes_max) : 0;
  const Napi::Promise promise = worker->Promise();
  worker->Queue();
  return promise;
}

// peerUid(fd) -> the user id of who connected to, or listens at, a unix socket | -errno.
Napi::Value PeerUid(const Napi::CallbackInfo& info) {
  Args args(info, "peerUid");
  const int fd = args.Fd(0, "fd");
  if (args.failed()) return info.Env().Undefined();
  ucred peer{};
  socklen_t size = sizeof peer;
  const int64_t result =
      RetryEintr([&] { return ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size); });
  return Result(info, result < 0 ? result : static_cast<int64_t>(peer.uid));
}

}  // namespace

void ExportFdPassing(Napi::Env env, Napi::Object exports) {
  exports.Set("exchange", Napi::Function::New(env, Exchange, "exchange"));
  exports.Set("peerUid", Napi::Function::New(env, PeerUid, "peerUid"));
}

}  // namespace erofsd

// SPDX-License-Identifier: Apache-2.0
// Conversations over unix sockets; see unix-exchange.h. unix(7), cmsg(3).
#include "unix-exchange.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "syscall.h"

namespace erofsd {
namespace {

// The most a kernel passes at once (SCM_MAX_FD): with less room it would drop some, unseen.
constexpr size_t kFdsMax = 253;
// A listener whose queue is full cannot be waited for with poll.
constexpr int kConnectRetryMs = 10;

int64_t NowMs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

}  // namespace

UnixExchange::~UnixExchange() {
  const int fd = TakeFd();
  if (fd >= 0) ::close(fd);
}

int UnixExchange::TakeFd() { return std::exchange(received_fd_, -1); }

int UnixExchange::Run() {
  deadline_ms_ = NowMs() + timeout_ms;
  syscall = "socket";
  const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (socket < 0) return -errno;
  const int error = Converse(socket);
  ::close(socket);
  return error;
}

int UnixExchange::Converse(int socket) {
  int error = Connect(socket);
  if (error == 0) error = Send(socket);
  if (error == 0 && receives) error = Receive(socket);
  return error;
}

int UnixExchange::Connect(int socket) {
  syscall = "connect";
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return -ENAMETOOLONG;
  std::memcpy(address.sun_path, path.data(), path.size());
  for (;;) {
    const int64_t result = RetryEintr([&] {
      return ::connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address);
    });
    if (result != -EAGAIN) return static_cast<int>(result);
    if (NowMs() >= deadline_ms_) return -ETIMEDOUT;
    ::poll(nullptr, 0, kConnectRetryMs);
  }
}

int UnixExchange::Send(int socket) {
  syscall = "sendmsg";
  // An fd cannot travel without a byte.
  if (fd_to_send >= 0 && to_send.empty()) to_send.push_back(0);
  size_t sent = 0;
  while (sent < to_send.size()) {
    iovec part = {to_send.data() + sent, to_send.size() - sent};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (fd_to_send >= 0 && sent == 0) {
      message.msg_control = control;
      message.msg_controllen = sizeof control;
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof(int));
      std::memcpy(CMSG_DATA(header), &fd_to_send, sizeof(int));
    }
    const int64_t count = RetryEintr([&] { return ::sendmsg(socket, &message, MSG_NOSIGNAL); });
    if (count >= 0) {
      sent += static_cast<size_t>(count);
      continue;
    }
    const int error = count == -EAGAIN ? Wait(socket, POLLOUT) : static_cast<int>(count);
    if (error != 0) return error;
  }
  return 0;
}

int UnixExchange::Receive(int socket) {
  syscall = "recvmsg";
  uint8_t bytes[4096];
  alignas(cmsghdr) char control[CMSG_SPACE(kFdsMax * sizeof(int))];
  for (;;) {
    iovec part = {bytes, sizeof bytes};
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const int64_t count = RetryEintr([&] { return ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC); });
    if (count >= 0) KeepFirstFd(&message);
    if (count == 0) return 0;
    if (count > 0) {
      if (static_cast<size_t>(count) > bytes_max - received.size()) return -EMSGSIZE;
      received.insert(received.end(), bytes, bytes + count);
      continue;
    }
    const int error = count == -EAGAIN ? Wait(socket, POLLIN) : static_cast<int>(count);
    if (error != 0) return error;
  }
}

void UnixExchange::KeepFirstFd(void* arg) {
  auto* message = static_cast<msghdr*>(arg);
  for (cmsghdr* header = CMSG_FIRSTHDR(message); header != nullptr;
       header = CMSG_NXTHDR(message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
      if (received_fd_ < 0) {
        received_fd_ = fd;
      } else {
        ::close(fd);
      }
    }
  }
}

int UnixExchange::Wait(int socket, short events) const {
  const int64_t rest = deadline_ms_ - NowMs();
  pollfd waited = {socket, events, 0};
  const int ready = rest <= 0 ? 0 : ::poll(&waited, 1, static_cast<int>(rest));
  if (ready < 0) return errno == EINTR ? 0 : -errno;
  return ready == 0 ? -ETIMEDOUT : 0;
}

}  // namespace erofsd

// SPDX-License-Identifier: Apache-2.0
// One conversation over a unix stream socket, with a time limit: connect, send bytes with an fd,
// receive bytes with an fd until the peer closes. Blocks the calling thread, knows nothing of JS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace erofsd {

class UnixExchange {
 public:
  UnixExchange() = default;
  ~UnixExchange();  // closes a received fd that was not taken
  UnixExchange(const UnixExchange&) = delete;
  UnixExchange& operator=(const UnixExchange&) = delete;

  std::string path;
  std::vector<uint8_t> to_send;
  int fd_to_send = -1;  // goes with the first byte; stays the caller's
  int64_t timeout_ms = 0;
  bool receives = false;
  size_t bytes_max = 0;  // of what is received

  // 0 or -errno (ETIMEDOUT, EMSGSIZE: more than bytes_max, ...); `syscall` names what failed.
  int Run();
  const char* syscall = "";
  std::vector<uint8_t> received;
  // The first fd that came, FD_CLOEXEC set, or -1; the caller owns it then.
  int TakeFd();

 private:
  int Converse(int socket);
  int Connect(int socket);
  int Send(int socket);
  int Receive(int socket);
  int Wait(int socket, short events) const;
  void KeepFirstFd(void* message);

  int64_t deadline_ms_ = 0;
  int received_fd_ = -1;
};

}  // namespace erofsd

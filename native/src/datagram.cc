// SPDX-License-Identifier: Apache-2.0
// One datagram, with an fd if wanted, to a unix socket: Node has no such sockets. unix(7), cmsg(3).
// It never waits, so it runs on the JS thread.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <limits>

#include "args.h"
#include "families.h"
#include "syscall.h"

namespace erofsd {
namespace {

int64_t Send(int socket, const sockaddr_un& address, size_t path_length, const Bytes& bytes,
             int fd) {
  iovec part = {bytes.data, bytes.length};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_name = const_cast<sockaddr_un*>(&address);
  message.msg_namelen = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path_length);
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd, sizeof(int));
  }
  return RetryEintr([&] { return ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT); });
}

// sendDatagram(address, bytes, fd | -1) -> count | -errno (EAGAIN: the receiver's queue is full).
// `address` is sun_path as the kernel takes it: abstract names begin with a NUL.
Napi::Value SendDatagram(const Napi::CallbackInfo& info) {
  Args args(info, "sendDatagram");
  const Bytes path = args.Uint8Array(0, "address");
  const Bytes bytes = args.Uint8Array(1, "bytes");
  const int64_t fd = args.Integer(2, "fd", -1, std::numeric_limits<int>::max());
  if (args.failed()) return info.Env().Undefined();
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.length > sizeof address.sun_path) return Result(info, -ENAMETOOLONG);
  std::memcpy(address.sun_path, path.data, path.length);
  const int socket = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (socket < 0) return Result(info, -errno);
  const int64_t result = Send(socket, address, path.length, bytes, static_cast<int>(fd));
  ::close(socket);
  return Result(info, result);
}

}  // namespace

void ExportDatagram(Napi::Env env, Napi::Object exports) {
  exports.Set("sendDatagram", Napi::Function::New(env, SendDatagram, "sendDatagram"));
}

}  // namespace erofsd

// SPDX-License-Identifier: Apache-2.0
// erofsd-keeper holds a copy of the daemon's /dev/cachefiles fd, so that mounts outlive the daemon:
// readers wait, and the next daemon takes the fd over. If none comes within the grace period it
// answers the kernel itself, so that nobody waits for ever. It allocates nothing after its start.
//
//   erofsd-keeper --socket PATH --device-fd N [--grace-seconds 30] [--daemon-pid PID]
//
// --daemon-pid is for whoever looks at a list of processes. Lines on the socket: `take` is answered
// by "fd" with the fd attached; `watch` makes the peer the daemon (the latest one wins), which
// tells `objects N` and, at an orderly stop, `bye`. It ends at `bye`, at SIGTERM, when the daemon
// is lost with no objects open, and, in failing mode, when the kernel has no objects any more.
//
// Failing mode writes `restore` (requests the dead daemon had taken come again) and then reads the
// device. A mount's first OPEN and the re-OPEN of a mounted object look alike, but a refused
// re-OPEN is sent again at once, and without end, while a reader waits; a mount's is not. So an
// OPEN is refused, unless the same keys were refused within the last REOPEN_MS: then it is accepted
// (the size of a mounted object is not applied again; 0 would mean "no data") and the READs that
// follow are completed without data, which gives their readers EIO. A mount tried twice within that
// time is accepted by mistake, and fails all the same, at its first READ.
// An object whose fd died with the daemon sends no CLOSE, so messages cannot tell when the last
// mount is gone: /proc/fs/fscache/caches does.
#define _GNU_SOURCE  // accept4, struct ucred
#include "keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

enum { CLIENTS_MAX = 16, LINE_BYTES = 64, EXIT_USAGE = 2 };

struct client {
  int fd;
  size_t length;
  char line[LINE_BYTES];
};

static struct client clients[CLIENTS_MAX];
static struct client* watcher;
static char socket_path[sizeof(((struct sockaddr_un*)0)->sun_path)];
static int listener = -1;
static int device = -1;
static long long grace_ms = 30000;
// When the daemon is given up; 0 while there is one.
static long long deadline_ms;
static long long objects;
static bool failing;

static _Noreturn void finish(void) {
  unlink(socket_path);
  _exit(0);
}

static void on_term(int number) {
  (void)number;
  finish();
}

static void start_grace(void) {
  if (failing) failing_end();
  failing = false;
  deadline_ms = now_ms() + grace_ms;
}

static void drop(struct client* client) {
  close(client->fd);
  client->fd = -1;
  if (client != watcher) return;
  watcher = NULL;
  if (objects == 0) finish();
  start_grace();
}

static void send_device(struct client* client) {
  char text[] = "fd\n";
  struct iovec part = {text, 3};
  union {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(int))];
  } control = {0};
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  struct cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(header), &device, sizeof device);
  if (sendmsg(client->fd, &message, MSG_NOSIGNAL) == 3 && watcher == NULL) start_grace();
  drop(client);
}

static void watch(struct client* client) {
  struct client* before = watcher;
  watcher = client;
  if (before != NULL && before != client) drop(before);
  if (failing) failing_end();
  failing = false;
  deadline_ms = 0;
}

static void obey(struct client* client, const char* line) {
  char* end;
  if (strcmp(line, "take") == 0) {
    send_device(client);
  } else if (strcmp(line, "watch") == 0) {
    watch(client);
  } else if (client == watcher && strcmp(line, "bye") == 0) {
    finish();
  } else if (client == watcher && strncmp(line, "objects ", 8) == 0) {
    const long long count = strtoll(line + 8, &end, 10);
    if (*end == '\0' && end != line + 8 && count >= 0) objects = count;
  } else {
    drop(client);
  }
}

static void listen_to(struct client* client) {
  const ssize_t count =
      read(client->fd, client->line + client->length, LINE_BYTES - client->length);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) {
    drop(client);
    return;
  }
  client->length += (size_t)count;
  char* end;
  while (client->fd >= 0 && (end = memchr(client->line, '\n', client->length)) != NULL) {
    const size_t line_length = (size_t)(end - client->line);
    char line[LINE_BYTES];
    memcpy(line, client->line, line_length);
    line[line_length] = '\0';
    client->length -= line_length + 1;
    memmove(client->line, end + 1, client->length);
    obey(client, line);
  }
  if (client->fd >= 0 && client->length == LINE_BYTES) drop(client);
}

static void welcome(void) {
  const int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return;
  struct ucred peer;
  socklen_t length = sizeof peer;
  const bool trusted = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
                       (peer.uid == 0 || peer.uid == geteuid());
  for (size_t i = 0; trusted && i < CLIENTS_MAX; i++) {
    if (clients[i].fd >= 0) continue;
    clients[i].fd = fd;
    clients[i].length = 0;
    return;
  }
  close(fd);
}

static void on_deadline(void) {
  if (objects == 0) finish();
  deadline_ms = 0;
  failing = true;
  failing_begin(device, objects);
}

static int wait_ms(void) {
  if (failing) return CHECK_MS;
  if (deadline_ms == 0) return -1;
  const long long rest = deadline_ms - now_ms();
  return rest < 0 ? 0 : rest > 1000000 ? 1000000 : (int)rest;
}

static _Noreturn void serve(void) {
  struct pollfd waited[CLIENTS_MAX + 2];
  for (;;) {
    waited[0] = (struct pollfd){.fd = listener, .events = POLLIN};
    waited[1] = (struct pollfd){.fd = failing ? device : -1, .events = POLLIN};
    for (size_t i = 0; i < CLIENTS_MAX; i++) {
      waited[i + 2] = (struct pollfd){.fd = clients[i].fd, .events = POLLIN};
    }
    poll(waited, CLIENTS_MAX + 2, wait_ms());
    // Clients first: whoever takes over wants the messages for himself.
    for (size_t i = 0; i < CLIENTS_MAX; i++) {
      if (waited[i + 2].revents != 0 && clients[i].fd == waited[i + 2].fd) listen_to(&clients[i]);
    }
    if ((waited[0].revents & POLLIN) != 0) welcome();
    if (deadline_ms != 0 && now_ms() >= deadline_ms) on_deadline();
    if (failing && failing_step()) finish();
  }
}

static bool open_listener(void) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  memcpy(address.sun_path, socket_path, sizeof socket_path);
  umask(0177);
  listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  return listener >= 0 && bind(listener, (struct sockaddr*)&address, sizeof address) == 0 &&
         listen(listener, CLIENTS_MAX) == 0;
}

// From here on no terminal, no directory and no pipe of the daemon's is held.
static void detach(void) {
  setsid();
  if (chdir("/") != 0) _exit(1);
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd < 3 && null >= 0; fd++) dup2(null, fd);
  if (null > 2) close(null);
}

static bool parse(int count, char** values) {
  for (int i = 1; i + 1 < count; i += 2) {
    const char* value = values[i + 1];
    if (strcmp(values[i], "--socket") == 0 && value[0] == '/' &&
        strlen(value) < sizeof socket_path) {
      strcpy(socket_path, value);
    } else if (strcmp(values[i], "--device-fd") == 0) {
      device = atoi(value);
    } else if (strcmp(values[i], "--grace-seconds") == 0) {
      grace_ms = atoll(value) * 1000;
    } else if (strcmp(values[i], "--daemon-pid") != 0) {
      return false;
    }
  }
  return count % 2 == 1 && socket_path[0] == '/' && grace_ms >= 0 && device > 2 &&
         fcntl(device, F_SETFD, FD_CLOEXEC) == 0;
}

int main(int count, char** values) {
  if (!parse(count, values)) {
    fputs("usage: erofsd-keeper --socket /PATH --device-fd N [--grace-seconds 30]\n", stderr);
    return EXIT_USAGE;
  }
  // A stray copy of an object's fd would keep the device busy for ever.
  if (device > 3) syscall(SYS_close_range, 3U, (unsigned)device - 1, 0);
  syscall(SYS_close_range, (unsigned)device + 1, ~0U, 0);
  for (size_t i = 0; i < CLIENTS_MAX; i++) clients[i].fd = -1;
  signal(SIGHUP, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGINT, SIG_IGN);
  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  if (!open_listener()) {
    perror("erofsd-keeper: socket");
    return 1;
  }
  signal(SIGTERM, on_term);
  deadline_ms = now_ms() + grace_ms;
  if (write(STDOUT_FILENO, "ready\n", 6) != 6) finish();
  detach();
  serve();
}

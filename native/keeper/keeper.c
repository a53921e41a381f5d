// SPDX-License-Identifier: Apache-2.0
// erofsd-keeper holds copies of what ties a daemon to the kernel, so that mounts outlive the daemon:
// the /dev/cachefiles fd, or a fanotify group and the journal of its events. Readers wait, and the
// next daemon takes the fds over. If none comes within the grace period the keeper answers the
// kernel itself, so that nobody waits for ever. It allocates nothing after its start.
//
//   erofsd-keeper --socket PATH [--grace-seconds 30] [--daemon-pid PID] [--NAME FD ...]
//                 [--supervise COMMAND ...]
//
// --daemon-pid is for whoever looks at a list of processes. With --supervise it runs the daemon as
// its child (supervise.c). Lines on the socket, NAME being cachefiles, fanotify or journal, as in
// the options, which give what another keeper held:
//   hold NAME   with an fd attached: a copy is kept. Answered "ok".
//   take NAME   answered "fd" with the fd attached, or "none".
//   who         answered with the daemon's process id and the supervisor's, 0 when there is none
//   yield       another keeper holds all of it now: this one ends, unless there is a daemon
//   watch       the peer is the daemon now; the latest one wins. It tells
//   objects N   how many objects the kernel has open, and
//   bye         at an orderly stop with none: all is let go.
// Without a supervisor's work to do it ends at `bye`, at SIGTERM, when the daemon is lost with no
// objects open, and, in failing mode, when cachefiles has no objects any more. One that holds a
// fanotify group of mounted files never lets it go: holes would be read as zeros.
//
// Failing mode of cachefiles writes `restore` (requests the dead daemon had taken come again) and
// then reads the device. A mount's first OPEN and the re-OPEN of a mounted object look alike, but a
// refused re-OPEN is sent again at once, and without end, while a reader waits; a mount's is not. So
// an OPEN is refused, unless the same keys were refused within the last REOPEN_MS: then it is
// accepted (the size of a mounted object is not applied again; 0 would mean "no data") and the
// READs that follow are completed without data, which gives their readers EIO. A mount tried twice
// within that time is accepted by mistake, and fails all the same, at its first READ.
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
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

enum { CLIENTS_MAX = 16, LINE_BYTES = 64, EXIT_USAGE = 2 };
enum { CACHEFILES, FANOTIFY, JOURNAL, HELD_KINDS };

struct client {
  int fd;
  // Came with a line that says what it is; -1: none.
  int passed;
  pid_t pid;
  size_t length;
  char line[LINE_BYTES];
};

static const char* const held_names[HELD_KINDS] = {"cachefiles", "fanotify", "journal"};
static int held[HELD_KINDS] = {-1, -1, -1};
static struct client clients[CLIENTS_MAX];
static struct client* watcher;
static char socket_path[sizeof(((struct sockaddr_un*)0)->sun_path)];
static int listener = -1;
static int signals = -1;
static char** supervised;
static long long grace_ms = 30000;
// When the daemon is given up; 0 while there is one.
static long long deadline_ms;
static long long objects;
static bool failing;

static _Noreturn void finish(int status) {
  unlink(socket_path);
  _exit(status);
}

// Holes of mounted files must not be read, so the group stays whatever happens.
static bool is_needed(void) { return held[FANOTIFY] >= 0 && objects > 0; }

static void let_go(void) {
  for (int kind = 0; kind < HELD_KINDS; kind++) {
    if (held[kind] >= 0) close(held[kind]);
    held[kind] = -1;
  }
  objects = 0;
}

static void end_failing(void) {
  if (failing && held[CACHEFILES] >= 0) failing_cachefiles_end();
  failing = false;
}

static void begin_failing(void) {
  deadline_ms = 0;
  failing = true;
  if (held[CACHEFILES] >= 0) failing_cachefiles_begin(held[CACHEFILES], objects);
  if (held[FANOTIFY] >= 0) failing_fanotify_begin(held[FANOTIFY], held[JOURNAL]);
}

// Nobody is served any more, and nobody needs it.
static void rest(void) {
  if (supervised == NULL) finish(0);
  end_failing();
  let_go();
  deadline_ms = 0;
}

static void start_grace(void) {
  end_failing();
  deadline_ms = now_ms() + grace_ms;
}

static void drop(struct client* client) {
  close(client->fd);
  client->fd = -1;
  if (client->passed >= 0) close(client->passed);
  client->passed = -1;
  if (client != watcher) return;
  watcher = NULL;
  if (objects == 0) {
    rest();
  } else {
    start_grace();
  }
}

union control {
  struct cmsghdr header;
  char room[CMSG_SPACE(sizeof(int))];
};

static bool send_fd(const struct client* client, int fd) {
  char text[] = "fd\n";
  struct iovec part = {text, 3};
  union control control = {0};
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  struct cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(header), &fd, sizeof fd);
  return sendmsg(client->fd, &message, MSG_NOSIGNAL) == 3;
}

static void take(struct client* client, int kind) {
  if (held[kind] < 0) {
    send(client->fd, "none\n", 5, MSG_NOSIGNAL);
  } else if (send_fd(client, held[kind]) && watcher == NULL) {
    start_grace();
  }
  drop(client);
}

static void hold(struct client* client, int kind) {
  if (client->passed < 0) {
    drop(client);
    return;
  }
  if (held[kind] >= 0) close(held[kind]);
  held[kind] = client->passed;
  client->passed = -1;
  send(client->fd, "ok\n", 3, MSG_NOSIGNAL);
  drop(client);
}

static void watch(struct client* client) {
  struct client* former = watcher;
  watcher = client;
  if (former != NULL && former != client) drop(former);
  end_failing();
  deadline_ms = 0;
  if (supervised != NULL) supervise_ready(client->pid);
}

static void tell_who(struct client* client) {
  char text[32];
  const int daemon = watcher == NULL ? 0 : (int)watcher->pid;
  const int supervisor = supervised == NULL ? 0 : (int)getpid();
  const int length = snprintf(text, sizeof text, "%d %d\n", daemon, supervisor);
  send(client->fd, text, (size_t)length, MSG_NOSIGNAL);
  drop(client);
}

static int kind_of(const char* name) {
  for (int kind = 0; kind < HELD_KINDS; kind++) {
    if (strcmp(name, held_names[kind]) == 0) return kind;
  }
  return -1;
}

static void obey(struct client* client, const char* line) {
  char* end;
  const int kind = strlen(line) > 5 ? kind_of(line + 5) : -1;
  if (kind >= 0 && strncmp(line, "take ", 5) == 0) {
    take(client, kind);
  } else if (kind >= 0 && strncmp(line, "hold ", 5) == 0) {
    hold(client, kind);
  } else if (strcmp(line, "who") == 0) {
    tell_who(client);
  } else if (strcmp(line, "yield") == 0 && watcher == NULL && supervised == NULL) {
    // The socket's path is the other keeper's by now.
    _exit(0);
  } else if (strcmp(line, "watch") == 0) {
    watch(client);
  } else if (client == watcher && strcmp(line, "bye") == 0) {
    watcher = NULL;
    rest();
    drop(client);
  } else if (client == watcher && strncmp(line, "objects ", 8) == 0) {
    const long long count = strtoll(line + 8, &end, 10);
    if (*end == '\0' && end != line + 8 && count >= 0) objects = count;
  } else {
    drop(client);
  }
}

static ssize_t receive(struct client* client) {
  struct iovec part = {client->line + client->length, LINE_BYTES - client->length};
  union control control;
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  const ssize_t count = recvmsg(client->fd, &message, MSG_CMSG_CLOEXEC);
  const struct cmsghdr* header = count < 0 ? NULL : CMSG_FIRSTHDR(&message);
  if (header != NULL && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
    if (client->passed >= 0) close(client->passed);
    memcpy(&client->passed, CMSG_DATA(header), sizeof client->passed);
  }
  return count;
}

static void listen_to(struct client* client) {
  const ssize_t count = receive(client);
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
    clients[i] = (struct client){.fd = fd, .passed = -1, .pid = peer.pid};
    return;
  }
  close(fd);
}

// From here on no terminal, no directory and no pipe of the daemon's is held.
static void detach(void) {
  setsid();
  if (chdir("/") != 0) _exit(1);
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd < 3 && null >= 0; fd++) dup2(null, fd);
  if (null > 2) close(null);
}

// What is still mounted is guarded on by a child that nobody waits for.
static void end_supervising(int status) {
  if (objects == 0 || fork() != 0) {
    if (objects == 0) unlink(socket_path);
    _exit(status);
  }
  supervised = NULL;
  detach();
}

static void on_signals(void) {
  int status = 0;
  if (supervised != NULL) {
    if (supervise_step(&status)) end_supervising(status);
    return;
  }
  struct signalfd_siginfo info;
  bool ends = false;
  while (read(signals, &info, sizeof info) == sizeof info) ends = ends || info.ssi_signo == SIGTERM;
  if (!ends) return;
  if (!is_needed()) finish(0);
  if (!failing && watcher == NULL) begin_failing();
}

static int wait_ms(void) {
  long long due_ms = deadline_ms;
  const long long restart_ms = supervised == NULL ? 0 : supervise_due_ms();
  if (restart_ms != 0 && (due_ms == 0 || restart_ms < due_ms)) due_ms = restart_ms;
  if (failing && (due_ms == 0 || due_ms > now_ms() + CHECK_MS)) return CHECK_MS;
  if (due_ms == 0) return -1;
  const long long rest = due_ms - now_ms();
  return rest < 0 ? 0 : rest > 1000000 ? 1000000 : (int)rest;
}

static void on_deadline(void) {
  if (objects == 0) {
    rest();
  } else {
    begin_failing();
  }
}

static void fail_what_waits(void) {
  if (held[FANOTIFY] >= 0) failing_fanotify_step();
  if (held[CACHEFILES] < 0 || !failing_cachefiles_step()) return;
  if (held[FANOTIFY] < 0) rest();
}

static _Noreturn void serve(void) {
  struct pollfd waited[CLIENTS_MAX + 4];
  for (;;) {
    waited[0] = (struct pollfd){.fd = listener, .events = POLLIN};
    waited[1] = (struct pollfd){.fd = signals, .events = POLLIN};
    waited[2] = (struct pollfd){.fd = failing ? held[CACHEFILES] : -1, .events = POLLIN};
    waited[3] = (struct pollfd){.fd = failing ? held[FANOTIFY] : -1, .events = POLLIN};
    for (size_t i = 0; i < CLIENTS_MAX; i++) {
      waited[i + 4] = (struct pollfd){.fd = clients[i].fd, .events = POLLIN};
    }
    poll(waited, CLIENTS_MAX + 4, wait_ms());
    // Clients first: whoever takes over wants the messages for himself.
    for (size_t i = 0; i < CLIENTS_MAX; i++) {
      if (waited[i + 4].revents != 0 && clients[i].fd == waited[i + 4].fd) listen_to(&clients[i]);
    }
    if ((waited[0].revents & POLLIN) != 0) welcome();
    on_signals();
    if (deadline_ms != 0 && now_ms() >= deadline_ms) on_deadline();
    if (failing) fail_what_waits();
  }
}

static bool open_listener(void) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  memcpy(address.sun_path, socket_path, sizeof socket_path);
  const mode_t before = umask(0177);
  listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const bool bound = listener >= 0 &&
                     bind(listener, (struct sockaddr*)&address, sizeof address) == 0 &&
                     listen(listener, CLIENTS_MAX) == 0;
  umask(before);
  return bound;
}

static int open_signals(void) {
  sigset_t handled;
  sigemptyset(&handled);
  sigaddset(&handled, SIGTERM);
  sigprocmask(SIG_BLOCK, &handled, NULL);
  return signalfd(-1, &handled, SFD_CLOEXEC | SFD_NONBLOCK);
}

static bool parse(int count, char** values) {
  int i = 1;
  for (; i + 1 < count && strcmp(values[i], "--supervise") != 0; i += 2) {
    const char* value = values[i + 1];
    if (strcmp(values[i], "--socket") == 0 && value[0] == '/' &&
        strlen(value) < sizeof socket_path) {
      strcpy(socket_path, value);
    } else if (strcmp(values[i], "--grace-seconds") == 0) {
      grace_ms = atoll(value) * 1000;
    } else if (kind_of(values[i] + 2) >= 0) {
      held[kind_of(values[i] + 2)] = atoi(value);
      // How many objects are open is not known.
      objects = 1;
    } else if (strcmp(values[i], "--daemon-pid") != 0) {
      return false;
    }
  }
  if (i + 1 < count) supervised = values + i + 1;
  return (i == count || supervised != NULL) && socket_path[0] == '/' && grace_ms >= 0;
}

// A stray copy of an object's fd would keep the device busy for ever.
static void close_others(void) {
  enum { LOW = 1024 };
  for (int fd = 3; fd < LOW; fd++) {
    bool is_held = false;
    for (int kind = 0; kind < HELD_KINDS; kind++) is_held = is_held || held[kind] == fd;
    if (is_held) {
      fcntl(fd, F_SETFD, FD_CLOEXEC);
    } else {
      close(fd);
    }
  }
  syscall(SYS_close_range, (unsigned)LOW, ~0U, 0);
}

int main(int count, char** values) {
  if (!parse(count, values)) {
    fputs("usage: erofsd-keeper --socket /PATH [--grace-seconds 30] [--NAME FD ...] "
          "[--supervise COMMAND ...]\n",
          stderr);
    return EXIT_USAGE;
  }
  close_others();
  for (size_t i = 0; i < CLIENTS_MAX; i++) clients[i] = (struct client){.fd = -1, .passed = -1};
  if (!open_listener()) {
    fprintf(stderr, "erofsd-keeper: %s: %s\n", socket_path, strerror(errno));
    return 1;
  }
  signal(SIGPIPE, SIG_IGN);
  if (supervised == NULL) {
    signal(SIGHUP, SIG_IGN);
    signal(SIGINT, SIG_IGN);
  }
  if (objects > 0) deadline_ms = now_ms() + grace_ms;
  signals = supervised == NULL ? open_signals() : supervise_begin(supervised);
  if (signals < 0) finish(1);
  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  if (supervised != NULL) serve();
  deadline_ms = now_ms() + grace_ms;
  if (write(STDOUT_FILENO, "ready\n", 6) != 6) finish(0);
  detach();
  serve();
}

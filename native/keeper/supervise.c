// SPDX-License-Identifier: Apache-2.0
// The keeper as a supervisor: it starts the daemon, starts it again when it dies, and passes
// signals on. A daemon that upgrades itself leaves its successor to us (we are its subreaper); who
// the daemon is tells the connection that watches (keeper.c).
//
// The first daemon that never gets ready is not started again: its exit status is ours. Later ones
// are, at once when the last one lived for STEADY_MS, else after a delay that doubles.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "keeper.h"

enum { STEADY_MS = 10000, BACKOFF_MIN_MS = 100, BACKOFF_MAX_MS = 10000, EXIT_NOT_FOUND = 127 };
// Of a daemon that did serve: readers wait for the next one, and it needs a third of a second too.
enum { SERVED_BACKOFF_MAX_MS = 400 };

static char** command;
static int signals = -1;
static sigset_t handled, before;
static pid_t daemon_pid;
static bool ever_ready, is_ready, stopping;
static long long started_ms, due_ms, backoff_ms;

static void start(void) {
  due_ms = 0;
  started_ms = now_ms();
  is_ready = false;
  daemon_pid = fork();
  if (daemon_pid == 0) {
    sigprocmask(SIG_SETMASK, &before, NULL);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    execvp(command[0], command);
    perror(command[0]);
    _exit(EXIT_NOT_FOUND);
  }
  // No memory, or too many processes: as if it had died at once.
  if (daemon_pid < 0) due_ms = now_ms() + BACKOFF_MAX_MS;
}

// True when the supervisor ends with *status.
static bool on_exit_of(int how, int* status) {
  daemon_pid = 0;
  *status = WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
  if (stopping || !ever_ready || *status == 0) return true;
  const long long now = now_ms();
  if (now - started_ms >= STEADY_MS) backoff_ms = 0;
  if (is_ready && backoff_ms > SERVED_BACKOFF_MAX_MS) backoff_ms = SERVED_BACKOFF_MAX_MS;
  if (WIFSIGNALED(how)) {
    fprintf(stderr, "erofsd-keeper: the daemon was ended by signal %d", WTERMSIG(how));
  } else {
    fprintf(stderr, "erofsd-keeper: the daemon ended with status %d", *status);
  }
  fprintf(stderr, "; it is started again in %lld ms\n", backoff_ms);
  due_ms = now + backoff_ms;
  backoff_ms = backoff_ms == 0 ? BACKOFF_MIN_MS : backoff_ms * 2;
  if (backoff_ms > BACKOFF_MAX_MS) backoff_ms = BACKOFF_MAX_MS;
  return false;
}

static bool reap(int* status) {
  int how;
  pid_t pid;
  bool done = false;
  while ((pid = waitpid(-1, &how, WNOHANG)) > 0) {
    if (pid == daemon_pid) done = on_exit_of(how, status) || done;
  }
  return done;
}

static bool pass_on(int number, int* status) {
  const bool ends = number == SIGTERM || number == SIGINT || number == SIGQUIT;
  if (ends) stopping = true;
  if (daemon_pid > 0) {
    kill(daemon_pid, number);
    return false;
  }
  // Between two daemons there is nobody to wait for.
  if (ends) *status = 0;
  return ends;
}

int supervise_begin(char** words) {
  command = words;
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  const int numbers[] = {SIGCHLD, SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2};
  sigemptyset(&handled);
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    // Ignored signals would not be seen even when they are blocked.
    signal(numbers[i], SIG_DFL);
    sigaddset(&handled, numbers[i]);
  }
  sigprocmask(SIG_BLOCK, &handled, &before);
  signals = signalfd(-1, &handled, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signals >= 0) start();
  return signals;
}

long long supervise_due_ms(void) { return due_ms; }

bool supervise_step(int* status) {
  struct signalfd_siginfo info;
  bool done = false;
  while (read(signals, &info, sizeof info) == sizeof info) {
    const int number = (int)info.ssi_signo;
    done = (number == SIGCHLD ? reap(status) : pass_on(number, status)) || done;
  }
  if (!done && due_ms != 0 && now_ms() >= due_ms) start();
  return done;
}

void supervise_ready(pid_t daemon) {
  ever_ready = true;
  is_ready = true;
  // A successor may serve after its predecessor was lost: another one would find no place.
  due_ms = 0;
  if (daemon == daemon_pid) return;
  daemon_pid = daemon;
  started_ms = now_ms();
}

// SPDX-License-Identifier: Apache-2.0
// The parts of the keeper: keeper.c knows clients and what is held, supervise.c the daemon as a
// child, failing-*.c what to answer the kernel when there is no daemon.
#ifndef EROFSD_KEEPER_H
#define EROFSD_KEEPER_H

#include <stdbool.h>
#include <sys/types.h>

// How often failing mode looks whether the kernel still has objects.
enum { CHECK_MS = 1000 };

long long now_ms(void);

// From now on the messages of cachefiles on `device` are answered here; `objects` were open.
void failing_cachefiles_begin(int device, long long objects);
// Answers what is pending. True when nobody needs an answer any more.
bool failing_cachefiles_step(void);
// A daemon has come: everything held is closed, nothing is read any more.
void failing_cachefiles_end(void);

// Refuses what the lost daemon had taken of the group's events, and it is no more in the journal.
void failing_fanotify_begin(int group, int journal);
// Refuses what is pending.
void failing_fanotify_step(void);

// Starts `command` and looks after it. The signalfd to poll, or -1 with errno.
int supervise_begin(char** command);
// At the latest then supervise_step wants to be called; 0: only for a signal.
long long supervise_due_ms(void);
// Handles signals and starts what is due. True when the supervisor has done; the exit status.
bool supervise_step(int* status);
// This process is the daemon from now on.
void supervise_ready(pid_t daemon);

#endif

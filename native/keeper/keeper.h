// SPDX-License-Identifier: Apache-2.0
// The two halves of the keeper: keeper.c knows clients, failing.c knows the kernel's messages.
#ifndef EROFSD_KEEPER_H
#define EROFSD_KEEPER_H

#include <stdbool.h>

// How often failing mode looks whether the kernel still has objects.
enum { CHECK_MS = 1000 };

long long now_ms(void);

// From now on the kernel's messages on `device` are answered here; `objects` were open.
void failing_begin(int device, long long objects);
// Answers what is pending. True when nobody needs an answer any more.
bool failing_step(void);
// A daemon has come: everything held is closed, nothing is read any more.
void failing_end(void);

#endif

#!/usr/bin/env -S node --max-semi-space-size=2
// SPDX-License-Identifier: Apache-2.0
// The `erofsd-nydusd` command: what nydus-snapshotter starts in place of nydusd. The rooms are
// loaded when its socket already listens. What passes through is in buffers of its own, so V8 gets
// a small young generation: a fifth less memory, and fewer fresh pages, which are dear in a guest.

import { runNydusd } from "../nydusd/run.ts";

await runNydusd(process.argv.slice(2), () => import("../nydusd-service.ts"));

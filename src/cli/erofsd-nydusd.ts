#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// The `erofsd-nydusd` command: what nydus-snapshotter starts in place of nydusd. The rooms are
// loaded when its socket already listens.

import { runNydusd } from "../nydusd/run.ts";

await runNydusd(process.argv.slice(2), () => import("../nydusd-service.ts"));

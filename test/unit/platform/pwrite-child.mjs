// SPDX-License-Identifier: Apache-2.0
// One pwrite of 16 KiB through the pool, in a process of its own; prints its result.
// Arguments: native directory, path, granule.
// Plain JavaScript, because node runs it as it is; so nothing in it has a type.
/* oxlint-disable typescript/no-unsafe-argument, typescript/no-unsafe-assignment, typescript/no-unsafe-call, typescript/no-unsafe-member-access, typescript/no-unsafe-return */

import { openSync } from "node:fs";
import { createRequire } from "node:module";

const [, , directory, path, granule] = process.argv;
const addon = createRequire(import.meta.url)("node-gyp-build")(directory);
const bytes = addon.allocateAligned(16_384, true);
for (let i = 0; i < bytes.length; i += 1) bytes[i] = (i * 31 + (i >> 12)) & 0xff;
const pool = new addon.WriterPool(1, 1, ([, result]) => console.log(result));
pool.start();
pool.pwrite(openSync(path, "w"), bytes, 0, bytes.length, 0, Number(granule));

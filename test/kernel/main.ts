// SPDX-License-Identifier: Apache-2.0
// The kernel tests, in one process: main TIER IMAGES [FILE]. Without FILE all of them. Runs in a
// guest, as root.

import { after } from "node:test";
import { FILES } from "./files.ts";

const LINGER_MS = 10_000;

const [, , , , only] = process.argv;
for (const file of FILES) {
  if (only === undefined || only === file) await import(`./${file}.js`);
}

// A test that has failed may leave daemons behind, which would keep us: others wait for this guest.
after(() => {
  setTimeout(() => process.exit(), LINGER_MS).unref();
});

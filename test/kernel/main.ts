// SPDX-License-Identifier: Apache-2.0
// The kernel tests, in one process: main TIER IMAGES [FILE]. Without FILE all of them. Runs in a
// guest, as root.

import { FILES } from "./files.ts";

const [, , , , only] = process.argv;
for (const file of FILES) {
  if (only === undefined || only === file) await import(`./${file}.js`);
}

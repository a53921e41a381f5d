// SPDX-License-Identifier: Apache-2.0
// The kernel tests, in one process: main TIER IMAGES [FILE]. Without FILE all of them. Runs in a
// guest, as root.

import { after } from "node:test";
import { FILES } from "./files.ts";

const [, , , , only] = process.argv;
for (const file of FILES) {
  if (only === undefined || only === file) await import(`./${file}.js`);
}

// A test that has failed may leave daemons and servers behind, which would keep this process, and its
// guest. Node has a list of them, which it documents nowhere.
after(() => {
  const handles: unknown = Reflect.get(process, "_getActiveHandles");
  if (typeof handles !== "function") return;
  for (const handle of handles.call(process) as { unref?(): void }[]) handle.unref?.();
});

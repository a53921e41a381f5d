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
  const list: unknown = Reflect.get(process, "_getActiveHandles");
  const handles: unknown = typeof list === "function" ? list.call(process) : [];
  for (const handle of Array.isArray(handles) ? handles : []) {
    const unref: unknown = Reflect.get(Object(handle), "unref");
    if (typeof unref === "function") unref.call(handle);
  }
});

// SPDX-License-Identifier: Apache-2.0
// The kernel tests, shared with other guests: shared TAKEN TIER IMAGES. Whoever makes a file's
// directory in TAKEN, which the guests have in common, runs the file, in a process of its own.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { FILES } from "./files.ts";

const [taken = "", ...rest] = process.argv.slice(2);
const main = new URL("main.js", import.meta.url).pathname;

async function take(file: string): Promise<boolean> {
  try {
    await mkdir(join(taken, file));
    return true;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "EEXIST") return false;
    throw error;
  }
}

for (const file of FILES) {
  if (!(await take(file))) continue;
  const child = spawn(process.execPath, [...process.execArgv, main, ...rest, file], {
    stdio: "inherit",
  });
  await once(child, "exit");
  if (child.exitCode !== 0) process.exitCode = 1;
}

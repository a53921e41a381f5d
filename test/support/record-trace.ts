// SPDX-License-Identifier: Apache-2.0
// `erofsd trace record` as a user runs it: begun, let read what is to be recorded, ended with Ctrl-C.

import { spawn } from "node:child_process";
import { once } from "node:events";

/** Records what `read` reads of the mount at `target` into `output`. Rejects when the command fails. */
export async function recordTrace(
  of: {
    readonly program: string;
    readonly socketPath: string;
    readonly target: string;
    readonly output: string;
  },
  read: () => Promise<void>,
): Promise<void> {
  const { program, socketPath, target, output } = of;
  const words = ["trace", "record", target, "--output", output, "--socket", socketPath];
  const recorder = spawn(process.execPath, [program, ...words], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  const ended = new Promise<number | null>((resolve) => void recorder.once("exit", resolve));
  // It says when it has begun.
  await once(recorder.stderr, "data");
  await read();
  recorder.kill("SIGINT");
  const code = await ended;
  if (code !== 0) throw new Error(`erofsd ${words.join(" ")}: ${String(code)}`);
}

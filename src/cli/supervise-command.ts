// SPDX-License-Identifier: Apache-2.0
// `erofsd supervise`: this process becomes the keeper, which runs `erofsd serve` as its child and
// starts it again when it dies. The keeper is a C program of a few pages (native/keeper), so a
// supervisor costs no second Node.js.

import { mkdir, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { loadConfigOrDefault } from "../config/config.ts";
import { DaemonError } from "../errors.ts";
import { execute } from "../kernel/execute.ts";
import {
  askKeeper,
  endKeeper,
  findKeeper,
  keeperSocket,
  takeFromKeeper,
} from "../kernel/keeper.ts";
import { loadNative } from "../platform/native.ts";

/** Does not return. Faults: config_invalid, cache_dir_unsuitable, keeper_running, syscall_failed. */
export async function superviseCommand(given: {
  readonly config: string | undefined;
  readonly grace: number;
}): Promise<never> {
  const { cache } = await loadConfigOrDefault(given.config);
  const socket = keeperSocket(cache.dir);
  await mkdir(dirname(socket), { recursive: true, mode: 0o700 }).catch((error: unknown) => {
    const detail = `cannot be created: ${error instanceof Error ? error.message : String(error)}`;
    throw new DaemonError({ code: "cache_dir_unsuitable", path: cache.dir, detail });
  });
  const native = loadNative({ writerThreads: 1 });
  const keptBy = await askKeeper({ native, socketPath: socket });
  const pid = keptBy?.daemon || keptBy?.supervisor || 0;
  if (pid > 0) throw new DaemonError({ code: "keeper_running", socket, pid });
  const held = Object.entries(await takeFromKeeper({ native, socketPath: socket }));
  // What it held is ours by now, and the supervisor's after that.
  if (keptBy !== undefined) await endKeeper({ native, socketPath: socket });
  await unlink(socket).catch(() => undefined);
  const keeper = await findKeeper();
  const [, script = ""] = process.argv;
  const daemon = [process.execPath, ...process.execArgv, script, "serve"];
  if (given.config !== undefined) daemon.push("--config", given.config);
  const grace = ["--grace-seconds", String(given.grace)];
  const kept = held.flatMap(([name, fd]) => [`--${name}`, String(fd)]);
  return execute(
    keeper,
    ["--socket", socket, ...grace, ...kept, "--supervise", ...daemon],
    held.map(([, fd]) => fd),
  );
}

// SPDX-License-Identifier: Apache-2.0
// Time to ready and idle memory of the daemon on this machine, which may have no cachefiles. A
// pseudo terminal that nobody types into stands for the device: it takes the daemon's commands
// and never has a message. So the kernel's part of the start (binding the cache directory) is
// not in these numbers; everything else is. host-start

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, watch, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findPackageRoot } from "../../src/platform/package-root.ts";
import { printResults } from "./results.ts";
import { idleRssMib } from "./rss.ts";

const STARTS = 7;
const PROGRAM = new URL("dist/cli/erofsd.js", findPackageRoot()).pathname;

const runs: { readyMs: number; rssMib: number }[] = [];
for (let at = 0; at < STARTS; at += 1) runs.push(await startOnce());
printResults("host, a pseudo terminal as the device", [
  ["ready, median", median(runs.map(({ readyMs }) => readyMs)), "ms"],
  ["ready, fastest", Math.min(...runs.map(({ readyMs }) => readyMs)), "ms"],
  ["idle RSS, median", median(runs.map(({ rssMib }) => rssMib)), "MiB"],
]);

async function startOnce(): Promise<{ readyMs: number; rssMib: number }> {
  const home = await mkdtemp(join(tmpdir(), "erofsd-start-"));
  const [config, log] = [join(home, "config.toml"), join(home, "log")];
  await writeFile(log, "");
  await writeFile(
    config,
    [
      `cache.dir = ${JSON.stringify(join(home, "cache"))}`,
      'kernel.device = "/dev/tty"',
      `control.socket = ${JSON.stringify(join(home, "socket"))}`,
      'log.format = "json"',
    ].join("\n"),
  );
  // script(1) makes a terminal and lets /dev/tty be it.
  const command = `stty raw -echo; echo $$ > ${home}/pid; exec ${PROGRAM} serve --config ${config} > ${log}`;
  const stop = new AbortController();
  const changes = watch(log, { signal: stop.signal });
  const startMs = performance.now();
  const child = spawn("script", ["-qfec", command, "/dev/null"], {
    stdio: ["pipe", "ignore", "inherit"],
  });
  const ended = once(child, "exit");
  for await (const _ of changes) if ((await readFile(log, "utf8")).includes('"ready"')) break;
  const readyMs = performance.now() - startMs;
  const pid = Number(await readFile(join(home, "pid"), "utf8"));
  const rssMib = await idleRssMib(pid);
  process.kill(pid, "SIGTERM");
  await ended;
  await rm(home, { recursive: true, force: true });
  return { readyMs, rssMib };
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

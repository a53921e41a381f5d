// SPDX-License-Identifier: Apache-2.0
// The demo itself: a registry, the daemon, a mount, a program run from the image, and what that
// cost. Ends with status 75 where this kernel loads nothing on demand.
//   demo-run STORAGE REPOSITORY TAG TREE CACHE_DIR

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, open, rm } from "node:fs/promises";
import { release, tmpdir } from "node:os";
import { join } from "node:path";
import type { Status } from "../../src/control/schema.ts";
import { findPackageRoot } from "../../src/platform/package-root.ts";
import { MIB } from "../../src/units.ts";
import { startDaemon } from "../../test/support/daemon.ts";
import { startDockerRegistry } from "../../test/support/docker-registry.ts";

const SCRIPT = `
import json, sys, textwrap
print(textwrap.indent(json.dumps({"python": sys.version.split()[0], "prefix": sys.prefix}), "   "))
`;

const NO_DOOR = 75;

const [storage = "", repository = "", tag = "", tree = "", cacheDir = ""] = process.argv.slice(2);
// The port that everybody knows, unless it is taken.
const registry = await startDockerRegistry({ storage, port: 5000 }).catch(() =>
  startDockerRegistry({ storage }),
);
const program = new URL("dist/cli/erofsd.js", findPackageRoot()).pathname;
const daemon = await startDaemon({ program, cacheDir });
const door = daemon.log.find(({ msg }) => msg === "ready")?.["door"];
const home = await mkdtemp(join(tmpdir(), "erofsd-demo-"));
const target = join(home, "mnt");
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => {
    void cleanUp().finally(() => process.exit(130));
  });
}
try {
  if (door === "full") noDoor();
  else await demo();
} finally {
  await cleanUp();
}

async function cleanUp(): Promise<void> {
  await run("umount", ["-l", target], { quiet: true });
  await daemon.stop();
  await registry.stop();
  await rm(home, { recursive: true, force: true });
}

function noDoor(): void {
  console.error(`demo: this kernel (${release()}) has neither cachefiles on demand nor fanotify`);
  process.exitCode = NO_DOOR;
}

async function demo(): Promise<void> {
  await mkdir(target);
  const reference = `${registry.host}/${repository}:${tag}`;
  const startMs = performance.now();
  if (door === "cachefiles") {
    const options = `fsid=${reference},domain_id=erofsd`;
    console.log(`\n$ mount -t erofs -o ${options} none ${target}`);
    await must("mount", ["-t", "erofs", "-o", options, "none", target]);
  } else {
    console.log(`\n$ erofsd mount ${reference} ${target}`);
    await must(process.execPath, [
      program,
      "mount",
      reference,
      target,
      "--socket",
      daemon.socketPath,
    ]);
  }
  await readFirstByte(join(target, "usr/bin/python3"));
  const firstByteMs = performance.now() - startMs;
  console.log(`$ ${target}/usr/bin/python3 demo.py`);
  const python = join(target, "usr/bin/python3");
  const env = { PYTHONHOME: join(target, "usr"), PYTHONDONTWRITEBYTECODE: "1" };
  await must(python, ["-c", SCRIPT], env);
  const programMs = performance.now() - startMs;
  const used = await daemon.status();
  printTable(used, { firstByteMs, programMs });
  console.log("comparing every file with its source ...");
  const same = await run("diff", ["-r", "--no-dereference", tree, target], { quiet: false });
  console.log(`digest check   ${same === 0 ? "OK: every byte is the source's" : "FAILED"}`);
  if (same !== 0) process.exitCode = 1;
}

function printTable(status: Status, times: { firstByteMs: number; programMs: number }): void {
  const size = status.objects.reduce((sum, object) => sum + object.sizeBytes, 0);
  const { kernelMessages, source } = status;
  const rows: [string, string][] = [
    ["door", `${String(door)}, Linux ${release()}`],
    ["image size", mebibytes(size)],
    ["asked for", `${mebibytes(kernelMessages.readBytes)} in ${kernelMessages.read} misses`],
    [
      "fetched",
      `${mebibytes(source.bytes)} (${Math.round((100 * source.bytes) / size)} % of the image)`,
    ],
    ["requests", String(source.requests)],
    ["first byte", `${Math.round(times.firstByteMs)} ms after the mount began`],
    ["program done", `${Math.round(times.programMs)} ms after the mount began`],
  ];
  console.log("");
  for (const [name, value] of rows) console.log(`${name.padEnd(14)} ${value}`);
}

async function readFirstByte(path: string): Promise<void> {
  const file = await open(path);
  await file.read(Buffer.alloc(1), 0, 1, 0);
  await file.close();
}

async function must(command: string, args: string[], env: NodeJS.ProcessEnv = {}): Promise<void> {
  const status = await run(command, args, { quiet: false, env });
  if (status === 0) return;
  for (const line of daemon.log) console.log(`daemon: ${line.msg}`);
  throw new Error(`${command} ended with status ${status}`);
}

async function run(
  command: string,
  args: string[],
  options: { quiet: boolean; env?: NodeJS.ProcessEnv },
): Promise<number | null> {
  const stdio = options.quiet ? "ignore" : "inherit";
  const child = spawn(command, args, { stdio, env: { ...process.env, ...options.env } });
  await once(child, "exit");
  return child.exitCode;
}

function mebibytes(bytes: number): string {
  return `${(bytes / MIB).toFixed(1)} MiB`;
}

// SPDX-License-Identifier: Apache-2.0
// In the guest: mounts an image from a layout, and records what starting its Python asks for.
//   guest.js LAYOUT

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { findPackageRoot } from "../../../src/platform/package-root.ts";
import { startDaemon } from "../../support/daemon.ts";
import { recordTrace } from "../../support/record-trace.ts";

const [, , layout = ""] = process.argv;
const PROGRAM = new URL("dist/cli/erofsd.js", findPackageRoot()).pathname;
const TARGET = "/mnt/image";
const OUTPUT = "/mnt/out/trace";

const daemon = await startDaemon({
  program: PROGRAM,
  cacheDir: "/mnt/disk/cache",
  config: '[engine]\nwindow = "4KiB"',
});
const erofsd = (...words: string[]) => [PROGRAM, ...words, "--socket", daemon.socketPath];
await mkdir(TARGET);
await must(process.execPath, erofsd("mount", `oci:${layout}:v1`, TARGET));
const { socketPath } = daemon;
const recorded = { program: PROGRAM, socketPath, target: TARGET, output: OUTPUT };
await recordTrace(recorded, async () => {
  await must("chroot", [TARGET, "/usr/bin/python3", "/opt/start.py"]);
  // The last READs are on their way to the file.
  await sleep(500);
});
await must("umount", [TARGET]);
await daemon.stop();

async function must(program: string, args: readonly string[]): Promise<void> {
  const child = spawn(program, args, { stdio: ["ignore", "inherit", "inherit"] });
  await once(child, "exit");
  if (child.exitCode !== 0) throw new Error(`${program} ${args.join(" ")}: ${child.exitCode}`);
}

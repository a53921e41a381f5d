// SPDX-License-Identifier: Apache-2.0
// What a first mount and one sequential read of 32 MiB cost, in a guest, at the default window:
// range requests, kernel messages, bytes, time. Prints a table and one line of JSON.
//   guest-sequential full IMAGES

import { open } from "node:fs/promises";
import { join } from "node:path";
import { MIB } from "../../src/units.ts";
import { Rig, catalogue, startRegistry } from "../kernel/support/rig.ts";
import { dropCaches, must } from "../kernel/support/run.ts";
import { printResults } from "./results.ts";
import { idleRssMib } from "./rss.ts";

const registry = await startRegistry();
const rig = await Rig.start();
try {
  const readyMs = rig.daemon.readyMs;
  const rssMib = await idleRssMib(rig.daemon.pid);
  let target = "";
  let firstByteMs = 0;
  const image = catalogue.get("sequential");
  const catMs = { cold: 0, warm: 0, source: 0 };
  const read = (path: string) => must("sh", ["-c", `exec cat ${path} >/dev/null`]);
  const cold = await rig.costOf(async () => {
    const startMs = performance.now();
    target = await rig.mountImage(registry.host, image);
    await readFirstByte(join(target, "mib-32"));
    firstByteMs = performance.now() - startMs;
    catMs.cold = (await read(join(target, "mib-32"))).ms;
  });
  await dropCaches();
  const warm = await rig.costOf(async () => {
    catMs.warm = (await read(join(target, "mib-32"))).ms;
  });
  await dropCaches();
  catMs.source = (await read(join(catalogue.treeOf(image), "mib-32"))).ms;
  await rig.umount(target);
  printResults("guest", [
    ["ready", readyMs, "ms"],
    ["idle RSS", rssMib, "MiB"],
    ["first byte after mount(8) began", firstByteMs, "ms"],
    ["cold read, 32 MiB", (32 * 1000) / catMs.cold, "MiB/s"],
    ["warm read, 32 MiB", (32 * 1000) / catMs.warm, "MiB/s"],
    ["the source file itself, 32 MiB", (32 * 1000) / catMs.source, "MiB/s"],
    ["requests, mount included (limit 34)", cold.requests, ""],
    ["READ messages (limit 40)", cold.reads, ""],
    ["READ messages, warm (limit 0)", warm.reads, ""],
    ["bytes fetched / bytes cached (limit 1.1)", cold.fetchedBytes / cold.writtenBytes, ""],
    ["bytes fetched / bytes read", cold.fetchedBytes / (32 * MIB), ""],
  ]);
} finally {
  await rig.stop();
  await registry.stop();
}

async function readFirstByte(path: string): Promise<void> {
  const file = await open(path);
  await file.read(Buffer.alloc(1), 0, 1, 0);
  await file.close();
}

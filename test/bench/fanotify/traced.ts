// SPDX-License-Identifier: Apache-2.0
// A recorded program started from a cold mount, with its trace: beside the same without it, and
// beside the time that its bytes alone take with its run when all of them are cached.

import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { EROFS_LAYER_V1 } from "../../../src/image/oci/media-types.ts";
import { distinctBytes } from "../../../src/image/trace-files.ts";
import { parseTrace } from "../../../src/image/trace-format.ts";
import { startDockerRegistry } from "../../support/docker-registry.ts";
import { mkfsErofs } from "../../support/mkfs.ts";
import { recordTrace } from "../../support/record-trace.ts";
import { pushImage } from "../../support/push.ts";
import { median } from "../host/bench.ts";
import { startLink } from "../link/link.ts";
import { makeBenchRoot } from "../bench-root.ts";
import type { Report } from "../report.ts";
import { Mounted, PROGRAM, dropCaches, timed } from "./site.ts";

const exec = promisify(execFile);
const RUNS = 5;
const LINK = { roundTripMs: 20, bandwidth: 50e6, connectionBandwidth: 0, loss: 0 };
const GOAL = 1.2;
/** What it takes a record's last lines to arrive. */
const RECORD_TAIL_MS = 1000;

export async function benchTraced(report: Report, home: string): Promise<void> {
  report.heading("the start of a Python program with its trace, 20 ms, 50 MB/s");
  const scratch = await mkdtemp(join(home, "traced-"));
  const registry = await startDockerRegistry({ storage: join(scratch, "registry") });
  const link = await startLink(registry.host);
  try {
    const target = { host: registry.host, repository: "bench" };
    const image = await makeImage(scratch);
    const { layers } = await pushImage(target, "start", [
      { body: { path: image }, mediaType: EROFS_LAYER_V1 },
    ]);
    const reference = `${registry.host}/bench:start`;
    const far = `${link.address}/bench:start`;
    const trace = join(scratch, "start.trace");
    await record(join(scratch, "recorded"), { reference, trace });
    const needed = distinctBytes(parseTrace(await readFile(trace, "utf8"), trace).reads);
    await link.reshape(LINK);
    const url = `http://${link.address}/v2/bench/blobs/${layers[0]?.digest ?? ""}`;
    const stream = ["-sf", "-o", "/dev/null", "-r", `0-${needed - 1}`, url];
    const streams: number[] = [];
    for (let run = 0; run < RUNS; run += 1) streams.push(await timed("curl", stream));
    const plain = await starts(scratch, far, link);
    const config = join(scratch, "client.toml");
    await writeFile(config, '[registry]\ndocker_config = ""\n');
    await erofsd(["trace", "push", trace, reference, "--config", config]);
    const traced = await starts(scratch, far, link);
    const streamMs = median(streams);
    report.add({
      part: "fanotify",
      name: "a recorded program, cold, with its trace",
      value: traced.coldMs,
      unit: "ms",
      reference: { name: "its bytes streamed, and its warm run", value: streamMs + traced.warmMs },
      goal: { kind: "at most", value: GOAL },
      details: {
        "ms to stream its bytes": streamMs,
        "ms warm": traced.warmMs,
        "MB it needs": needed / 1e6,
        "MB carried": traced.mb,
        "ms mount": traced.mountMs,
      },
    });
    report.add({
      part: "fanotify",
      name: "the same beside none",
      value: traced.coldMs,
      unit: "ms",
      reference: { name: "without its trace", value: plain.coldMs },
      goal: { kind: "at most", value: 1 },
      details: { "MB carried without": plain.mb, "ms mount without": plain.mountMs },
    });
  } finally {
    await link.stop();
    await registry.stop();
    await rm(scratch, { recursive: true, force: true });
  }
}

async function makeImage(scratch: string): Promise<string> {
  const [root, image] = [join(scratch, "root"), join(scratch, "image.erofs")];
  await makeBenchRoot(root);
  await mkfsErofs(image, root);
  return image;
}

async function erofsd(words: readonly string[]): Promise<void> {
  await exec(process.execPath, [PROGRAM, ...words]);
}

const start = (target: string): Promise<number> =>
  timed("chroot", [target, "/usr/bin/python3", "/opt/start.py"]);

async function record(home: string, of: { reference: string; trace: string }): Promise<void> {
  const mounted = await Mounted.start(home, { reference: of.reference, config: "" });
  try {
    const { daemon, target } = mounted;
    const { socketPath } = daemon;
    await recordTrace({ program: PROGRAM, socketPath, target, output: of.trace }, async () => {
      await start(target);
      await sleep(RECORD_TAIL_MS);
    });
  } finally {
    await mounted.stop();
  }
}

interface Starts {
  readonly coldMs: number;
  readonly warmMs: number;
  readonly mountMs: number;
  readonly mb: number;
}

async function starts(
  scratch: string,
  reference: string,
  link: Awaited<ReturnType<typeof startLink>>,
): Promise<Starts> {
  const [cold, warm, mounts, mb]: [number[], number[], number[], number[]] = [[], [], [], []];
  for (let run = 0; run < RUNS; run += 1) {
    await dropCaches();
    const before = (await link.stats()).downBytes;
    const mounted = await Mounted.start(join(scratch, "run"), { reference, config: "" });
    cold.push(await start(mounted.target));
    mb.push(((await link.stats()).downBytes - before) / 1e6);
    warm.push(await start(mounted.target));
    mounts.push(mounted.mountMs);
    await mounted.stop();
  }
  return {
    coldMs: median(cold),
    warmMs: median(warm),
    mountMs: median(mounts),
    mb: median(mb),
  };
}

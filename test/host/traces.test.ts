// SPDX-License-Identifier: Apache-2.0
// A trace on this very kernel: recorded of a mount, pushed beside its image, and replayed by another
// machine's first mount (an empty cache).

import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { rm, writeFile } from "node:fs/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import * as z from "zod";
import { ask } from "../../src/control/client.ts";
import { imageHistory } from "../../src/control/history-schema.ts";
import { parseTrace } from "../../src/image/trace-format.ts";
import { fileShares } from "../../src/image/trace-files.ts";
import { mkfsErofs } from "../support/mkfs.ts";
import { recordTrace } from "../support/record-trace.ts";
import { LARGE_BYTES, writeHostTree } from "./support/content.ts";
import { Site, must, program } from "./support/site.ts";

const timeout = 120_000;
const PART_BYTES = 1 << 20;

let site: Site;
let reference: string;

beforeAll(async () => {
  site = await Site.start();
  const image = join(site.home, "traced.erofs");
  await mkfsErofs(image, await writeHostTree(site.home));
  reference = await site.pushRaw(image, "traced");
}, timeout);

afterAll(() => site.stop(), timeout);

const shown = z.object({
  files: z.array(z.object({ path: z.string(), bytes: z.number(), reads: z.number() })),
});

/** What the container reads: a small file, then a piece out of the middle of a large one. */
async function startProgram(mounted: string): Promise<void> {
  await promisify(execFile)("cat", [join(mounted, "many", "7-")]).catch(() => undefined);
  const skip = Math.floor(LARGE_BYTES / 2 / PART_BYTES);
  const args = [`if=${join(mounted, "large")}`, "of=/dev/null", "bs=1M", `skip=${skip}`, "count=1"];
  await promisify(execFile)("dd", args);
}

test(
  "recorded of a mount, it has the files that were read; pushed, the next first mount replays it",
  async () => {
    const mounted = await site.mount(reference);
    const output = join(site.home, "start.trace");
    const { socketPath } = site.daemon;
    await recordTrace({ program, socketPath, target: mounted, output }, async () => {
      await startProgram(mounted);
      // Its lines are on their way to the command.
      await new Promise((resolve) => void setTimeout(resolve, 1000));
    });

    const trace = parseTrace(await readFile(output, "utf8"), output);
    expect(trace.image?.reference).toBe(reference);
    const large = fileShares(trace).find(({ path }) => path === "/large");
    expect(large?.bytes).toBeGreaterThanOrEqual(PART_BYTES);
    expect(large?.bytes).toBeLessThan(LARGE_BYTES / 2);
    const listed = shown.parse(
      JSON.parse(await must(process.execPath, [program, "trace", "show", output, "--json"])),
    );
    expect(listed.files.map(({ path }) => path)).toContain("/large");
    const page = join(site.home, "report.html");
    await site.erofsd(["report", mounted, "--output", page]);
    expect(await readFile(page, "utf8")).toContain("/large");
    await site.umount(mounted);

    const config = join(site.home, "client.toml");
    await writeFile(config, '[registry]\ndocker_config = ""\n');
    await must(process.execPath, [program, "trace", "push", output, reference, "--config", config]);

    const read = [...trace.reads].filter(({ offset, length }) => offset + length > 0);
    await site.crash(() => rm(site.cacheDir, { recursive: true, force: true }));
    const again = await site.mount(reference);
    const cachedBytes = async (): Promise<number> =>
      (await site.daemon.status()).objects[0]?.cachedBytes ?? 0;
    await site.daemon.untilLogged(({ msg }) => msg === "a trace was replayed");
    // Nobody has read a byte; what is there besides the metadata came of the trace.
    expect(read.length).toBeGreaterThan(0);
    expect(await cachedBytes()).toBeGreaterThanOrEqual(PART_BYTES);
    const waits = async (): Promise<number> => {
      const path = `/v1/images/${encodeURIComponent(reference)}/history`;
      const asked = { method: "GET", path, answer: imageHistory } as const;
      const { streams } = await ask(site.daemon.socketPath, asked);
      return streams.reduce((sum, stream) => sum + stream.waits.length, 0);
    };
    const before = await waits();
    await startProgram(again);
    expect(await waits()).toBe(before);
  },
  timeout,
);

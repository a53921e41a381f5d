// SPDX-License-Identifier: Apache-2.0
// A trace through cachefiles: recorded of a mount, pushed beside its image, replayed by the first
// mount of a daemon that has nothing. And what top and report show of such a mount.

import { ok, strictEqual } from "node:assert/strict";
import { mkdtemp, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import * as z from "zod";
import { MIB } from "../../src/units.ts";
import type { RunningRegistry } from "../support/docker-registry.ts";
import { recordTrace } from "../support/record-trace.ts";
import { Rig, catalogue, startRegistry } from "./support/rig.ts";
import { erofsd, must } from "./support/run.ts";
import { PROGRAM, SLOWNESS, fullOnly } from "./support/settings.ts";

const timeout = 120_000 * SLOWNESS;
/** A piece out of the middle of the image's large file. */
const PART = { skipMib: 20, mib: 2 };

const shown = z.object({
  files: z.array(z.object({ path: z.string(), bytes: z.number(), reads: z.number() })),
});
const topLine = z.looseObject({ mounts: z.array(z.looseObject({ mountPoint: z.string() })) });

fullOnly("traces", () => {
  let registry: RunningRegistry;
  let rig: Rig;
  let home: string;
  before(async () => {
    home = await mkdtemp(join(tmpdir(), "traces-"));
    registry = await startRegistry();
    rig = await Rig.beside(registry);
  });
  after(async () => {
    await rig.stop();
    await registry.stop();
  });

  const command = async (...words: string[]): Promise<string> => {
    const ended = await erofsd(...words);
    strictEqual(ended.status, 0, `${words.join(" ")}: ${ended.stderr}\n${rig.logText()}`);
    return ended.stdout;
  };
  const asked = (...words: string[]): Promise<string> =>
    command(...words, "--socket", rig.daemon.socketPath);

  /** Records what `read` has read of the mount. */
  async function recorded(target: string, read: () => Promise<void>): Promise<string> {
    const output = join(home, "start.trace");
    const { socketPath } = rig.daemon;
    await recordTrace({ program: PROGRAM, socketPath, target, output }, async () => {
      const before = await rig.daemon.status();
      await read();
      await rig.untilStatus(({ waitingReads }) => waitingReads === 0);
      ok((await rig.daemon.status()).kernelMessages.read > before.kernelMessages.read);
    });
    return output;
  }

  const startProgram = async (target: string): Promise<void> => {
    const { skipMib, mib } = PART;
    const words = [`if=${join(target, "mib-64")}`, "of=/dev/null", "bs=1M"];
    await must("dd", [...words, `skip=${skipMib}`, `count=${mib}`]);
  };

  test("what was recorded of a mount is replayed by the next first mount", {
    timeout,
  }, async () => {
    const image = catalogue.get("large");
    const reference = `${registry.host}/${image.repository}:${image.tag}`;
    const target = await rig.mount(reference);
    const trace = await recorded(target, () => startProgram(target));
    const { files } = shown.parse(JSON.parse(await command("trace", "show", trace, "--json")));
    const part = files.find(({ path }) => path === "/mib-64");
    ok((part?.bytes ?? 0) >= PART.mib * MIB, JSON.stringify(files));

    const top = topLine.parse(
      JSON.parse(await asked("top", "--json", "--once", "--interval", "0.2")),
    );
    strictEqual(top.mounts[0]?.mountPoint, target);
    const page = join(home, "report.html");
    await asked("report", target, "-o", page);
    const html = await readFile(page, "utf8");
    ok(
      html.includes("/mib-64") && html.includes(image.layers[0]?.digest.slice(7, 19) ?? "?"),
      html.slice(0, 2000),
    );
    await rig.umount(target);

    const config = join(home, "client.toml");
    await writeFile(config, '[registry]\ndocker_config = ""\n');
    await command("trace", "push", trace, reference, "--config", config);
    await rig.stop();
    rig = await Rig.start();
    const again = await rig.mount(reference);
    await rig.untilLogged(({ msg }) => msg === "a trace was replayed");
    await rig.untilQuiet();
    const cost = await rig.costOf(() => startProgram(again));
    strictEqual(cost.fetchedBytes, 0, JSON.stringify(cost));
    strictEqual(cost.reads, 0, JSON.stringify(cost));
  });

  test("files of a compressed image have their names", { timeout }, async () => {
    const image = catalogue.get("lz4");
    const target = await rig.mount(`${registry.host}/${image.repository}:${image.tag}`);
    const trace = await recorded(target, async () => {
      await must("sh", ["-c", `cat ${target}/* > /dev/null 2>&1 || :`]);
    });
    const { files } = shown.parse(JSON.parse(await command("trace", "show", trace, "--json")));
    ok(
      files.some(({ path }) => path.startsWith("/")),
      JSON.stringify(files),
    );
  });
});

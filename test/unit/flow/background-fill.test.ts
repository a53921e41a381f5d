// SPDX-License-Identifier: Apache-2.0
// What is mounted is completed in the background when that is wanted, and only then.

import { describe, expect, test } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import { BackgroundFill } from "../../../src/flow/background-fill.ts";
import { Bindings } from "../../../src/state/bindings.ts";
import { BLOCK_BYTES } from "../../../src/units.ts";
import { patternBytes, sameBytes } from "../../support/flow-rig.ts";
import { PrefetchRig } from "../../support/prefetch-rig.ts";
import { tempDir } from "../../support/temp-dir.ts";
import { turns } from "../../support/turns.ts";

const LOOK_EVERY_MS = 5 * 60_000;
const NAME = { volumeKey: "erofs,erofsd", cookieKey: "image" };
const JOB = `fill of ${NAME.volumeKey}\0${NAME.cookieKey}`;
const unreachable = new DaemonError({ code: "registry_unreachable", host: "r", detail: "down" });

/** A blob that is mounted as an image. */
async function mounted(fill: "on-demand" | "background") {
  const rig = new PrefetchRig();
  const content = patternBytes(40 * BLOCK_BYTES);
  const stream = rig.blob(content);
  const bindings = new Bindings(`${await tempDir()}/state.json`);
  const { engine, clock, prefetcher } = rig;
  const fills = new BackgroundFill({ engine, bindings, prefetcher, clock, fill });
  const object = rig.objectOf({ ...NAME, sizeBytes: stream.size });
  const { digest: manifestDigest } = stream;
  await bindings.bind(NAME, { reference: "r", manifestDigest, stream, devices: [] });
  engine.serve(rig.stream(stream), object);
  await turns();
  return { rig, fills, bindings, object, content };
}

describe("an image that is mounted", () => {
  test("is completed when the configuration says so, and then nothing is left to do", async () => {
    const { rig, fills, object, content } = await mounted("background");
    await rig.quiet();
    await rig.finishAll();
    expect(sameBytes(object.file, content)).toBe(true);
    const { length } = rig.fetched;
    await rig.clock.advance(10 * LOOK_EVERY_MS);
    expect(rig.fetched).toHaveLength(length);
    fills.stop();
    expect(rig.clock.pendingCount).toBe(0);
  });

  test("is filled on demand alone otherwise, until it is wanted whole", async () => {
    const { rig, fills, bindings, object, content } = await mounted("on-demand");
    await rig.clock.advance(10 * LOOK_EVERY_MS);
    expect([rig.fetched, rig.clock.pendingCount]).toEqual([[], 0]);
    await bindings.setFill(NAME, "background");
    fills.look();
    await rig.quiet();
    await rig.finishAll();
    expect(sameBytes(object.file, content)).toBe(true);
  });

  test("is left alone when it is said of it, whatever the configuration says", async () => {
    const { rig, fills, bindings } = await mounted("background");
    await bindings.setFill(NAME, "on-demand");
    fills.look();
    await rig.clock.advance(10 * LOOK_EVERY_MS);
    expect(rig.fetched).toEqual([]);
  });

  test("gets what has failed for long once its registry is back", async () => {
    const { rig, object, content } = await mounted("background");
    for (let ms = 0; ms < 20 * LOOK_EVERY_MS; ms += 1000) {
      await rig.clock.advance(1000);
      for (const fetch of rig.source.open) fetch.fail(unreachable);
      await turns();
    }
    expect(sameBytes(object.file, content)).toBe(false);
    for (let looks = 0; looks < 4; looks += 1) {
      await rig.clock.advance(LOOK_EVERY_MS);
      await rig.finishAll();
    }
    expect(sameBytes(object.file, content)).toBe(true);
  });

  test("is given up when nobody has it open any more, and costs nothing then", async () => {
    const { rig, fills, object } = await mounted("background");
    await rig.quiet();
    rig.close(object);
    await turns();
    fills.look();
    await rig.clock.advance(10 * LOOK_EVERY_MS);
    expect([rig.prefetcher.counters(JOB), rig.clock.pendingCount]).toEqual([undefined, 0]);
  });
});

// SPDX-License-Identifier: Apache-2.0
// Prefetch of real Nydus images through the real decoder: what it leaves in the cache files is
// what readers would have got.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { Prefetcher } from "../../../src/flow/prefetch/prefetcher.ts";
import { streamKey } from "../../../src/flow/streams.ts";
import { systemClock as clock } from "../../../src/platform/clock.ts";
import { type Native, loadNative } from "../../../src/platform/native.ts";
import { BLOCK_BYTES, alignUp } from "../../../src/units.ts";
import { digestWith } from "../../support/rafs-decode.ts";
import { FIXTURE_IMAGES, readFixture } from "../../support/rafs-fixtures.ts";
import { RafsRig } from "../../support/rafs-rig.ts";
import { tempDir } from "../../support/temp-dir.ts";

let native: Native;
beforeAll(() => {
  native = loadNative({ writerThreads: 2 });
});
afterAll(() => native.destroy());

async function prefetched(name: string, all: boolean) {
  const rig = new RafsRig(native, await tempDir());
  const image = readFixture(name);
  const { devices } = await rig.admit(image);
  const bootstrapPath = join(await tempDir(), "image.boot");
  await writeFile(bootstrapPath, image.bootstrap);
  const prefetcher = new Prefetcher({ engine: rig.engine, clock, log: rig.log });
  prefetcher.start(name, { devices, bootstrapPath, all, bandwidthRate: 0 });
  const objects = await Promise.all(devices.map((device) => rig.open(device)));
  await vi.waitFor(
    () => {
      expect(prefetcher.counters(name)?.endedAtMs).toBeDefined();
    },
    { timeout: 10_000 },
  );
  expect(rig.slabs.lentCount).toBe(0);
  return { rig, devices, objects, counters: prefetcher.counters(name) };
}

describe("a Nydus image", () => {
  test.each(FIXTURE_IMAGES)("%s is filled whole, but for what may not be served", async (name) => {
    const { rig, devices, objects, counters } = await prefetched(name, true);
    let storedBytes = 0;
    for (const [index, device] of devices.entries()) {
      const { map } = await rig.streams.open(device);
      const object = objects[index];
      for (const unit of map.units({ offset: 0, length: map.sizeBytes }) ?? []) {
        for (const { offset, length, digest } of unit.pieces) {
          const end = alignUp(offset + length, BLOCK_BYTES);
          expect(object?.hasWritten({ offset, length: end - offset })).toBe(true);
          const bytes = object?.file.subarray(offset, offset + length) ?? new Uint8Array();
          const actual = digestWith(map.digester ?? "sha256", bytes);
          expect(Buffer.compare(actual, digest)).toBe(0);
        }
      }
      storedBytes += rig.engine.countersOf(streamKey(device)).fetchedBytes;
    }
    expect(counters?.bytes).toBe(storedBytes);
    expect(rig.log.messages("warn")).toEqual([]);
  });

  test("whose table names a few files gets those, and little more", async () => {
    const { objects, counters } = await prefetched("nydus-prefetch", false);
    const written = objects.flatMap((object) =>
      Array.from({ length: object.file.length / BLOCK_BYTES }, (_, block) =>
        object.hasWritten({ offset: block * BLOCK_BYTES, length: BLOCK_BYTES }),
      ),
    );
    const blocks = written.filter(Boolean).length;
    // /bin with 20020 bytes and /data/mixed.bin with 132072, in chunks of 64 KiB.
    expect(blocks).toBeGreaterThanOrEqual(Math.ceil(152_092 / BLOCK_BYTES));
    expect(blocks).toBeLessThan(100);
    expect(blocks).toBeLessThan(written.length / 2);
    expect(counters?.requests).toBeLessThan(6);
  });
});

// SPDX-License-Identifier: Apache-2.0
// Nydus images from their bootstraps to the cache files of their devices; images that say
// something else of a blob than one that is known; and blobs that are not what their digests say.

import { rm } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { CHUNK_ROW_BYTES } from "../../../src/image/rafs/bootstrap.ts";
import { RafsChunkMap } from "../../../src/image/rafs/chunk-map.ts";
import { type BlobRows, ROW_WORDS } from "../../../src/image/rafs/chunk-table.ts";
import { type Native, loadNative } from "../../../src/platform/native.ts";
import type { Content, StreamRecord } from "../../../src/state/bindings.ts";
import { BLOCK_BYTES } from "../../../src/units.ts";
import type { FakeObject } from "../../support/fake-kernel.ts";
import { rejectionOf } from "../../support/fault-code.ts";
import { digestWith } from "../../support/rafs-decode.ts";
import {
  FIXTURE_IMAGES,
  type FixtureImage,
  parseFixture,
  readFixture,
} from "../../support/rafs-fixtures.ts";
import { RafsRig } from "../../support/rafs-rig.ts";
import { tempDir } from "../../support/temp-dir.ts";

let native: Native;
beforeAll(() => {
  native = loadNative({ writerThreads: 2 });
});
afterAll(() => native.destroy());

const rig = async (readTimeoutMs?: number): Promise<RafsRig> =>
  new RafsRig(native, await tempDir(), readTimeoutMs);

/** What is wrong is tried for so long. */
const DAMAGED_READ_MS = 1500;

async function mapOf(of: RafsRig, record: StreamRecord): Promise<RafsChunkMap> {
  const { map } = await of.streams.open(record);
  if (!(map instanceof RafsChunkMap)) throw new Error("a Nydus blob has a chunk map");
  return map;
}

/** Every chunk that may be served: how it was answered, and whether its bytes have its digest. */
async function readAll(
  of: RafsRig,
  record: StreamRecord,
): Promise<{ failed: number; served: number }> {
  const map = await mapOf(of, record);
  const object = await of.open(record);
  const result = { failed: 0, served: 0 };
  for (let offset = 0; offset < map.sizeBytes; ) {
    const unit = map.widen({ offset, length: BLOCK_BYTES });
    offset += unit.length;
    if (map.cut(unit, NO_LIMIT).length === 0) continue;
    const read = await of.read(object, unit.offset, unit.length);
    const right = isRight(object, map, unit);
    if (read.answer === "failed") result.failed += 1;
    else {
      expect(right).toBe(true);
      result.served += 1;
    }
  }
  return result;
}

const NO_LIMIT = { logicalBytesMax: Infinity, storedBytesMax: Infinity };

function isRight(
  object: FakeObject,
  map: RafsChunkMap,
  extent: { offset: number; length: number },
): boolean {
  return map.units(extent).every(({ pieces }) =>
    pieces.every(({ offset, length, digest }) => {
      const bytes = object.file.subarray(offset, offset + length);
      const padding = object.file.subarray(
        offset + length,
        Math.ceil((offset + length) / 4096) * 4096,
      );
      const actual = digestWith(map.digester, bytes);
      return Buffer.compare(actual, digest) === 0 && padding.every((byte) => byte === 0);
    }),
  );
}

const devicesOf = (content: Content): readonly StreamRecord[] => content.devices;

describe("every fixture", () => {
  test.each(FIXTURE_IMAGES)(
    "%s: every chunk of every device arrives, whole and verified",
    async (name) => {
      const flow = await rig();
      const content = await flow.admit(readFixture(name));
      expect(content.devices.length).toBeGreaterThan(0);
      for (const device of devicesOf(content)) {
        const { failed, served } = await readAll(flow, device);
        expect(failed).toBe(0);
        expect(served).toBeGreaterThan(0);
      }
      await vi.waitFor(() => {
        expect(flow.slabs.lentCount).toBe(0);
      });
    },
  );

  test("is known to the next daemon without its bootstrap or its blobs' tables", async () => {
    const directory = await tempDir();
    const content = await new RafsRig(native, directory).admit(readFixture("nydus-batch"));
    const next = new RafsRig(native, directory);
    expect(await next.streams.isComplete(content)).toBe(true);
    for (const device of devicesOf(content)) expect((await readAll(next, device)).failed).toBe(0);
  });
});

/** The image with a bit of one chunk's digest in its chunk table turned. */
function withForgedDigest(image: FixtureImage, row = 0): FixtureImage {
  const bootstrap = Uint8Array.from(image.bootstrap);
  const { chunkTable } = parseFixture(bootstrap).bootstrap;
  const at = chunkTable.offset + row * CHUNK_ROW_BYTES + 31;
  bootstrap[at] = (bootstrap[at] ?? 0) ^ 1;
  return { ...image, bootstrap };
}

/** The place in the chunk table of some row of the last blob. */
function rowOfLast(rows: readonly BlobRows[]): number {
  return (rows.at(-1)?.at[0] ?? 0) / ROW_WORDS;
}

describe("two images with one blob", () => {
  test("share its chunk map, and each adds what it vouches for", async () => {
    const flow = await rig();
    const [one, two] = [readFixture("nydus"), readFixture("nydus-v2-dict")];
    const first = await flow.admit(one);
    const second = await flow.admit(two);
    const shared = second.devices.filter(({ digest }) =>
      first.devices.some((device) => device.digest === digest),
    );
    expect(shared.length).toBeGreaterThan(0);
    for (const device of second.devices) expect((await readAll(flow, device)).failed).toBe(0);
  });

  test("a hostile one that comes second is refused, and changes nothing", async () => {
    const flow = await rig();
    const honest = readFixture("nydus");
    const content = await flow.admit(honest);
    expect(await rejectionOf(flow.admit(withForgedDigest(honest)))).toBe("image_invalid");
    for (const device of content.devices) expect((await readAll(flow, device)).failed).toBe(0);
  });

  test("a hostile one that came first never has the honest one read its bytes", async () => {
    const flow = await rig();
    const honest = readFixture("nydus");
    const hostile = await flow.admit(withForgedDigest(honest));
    const results = [];
    for (const device of hostile.devices) results.push(await readAll(flow, device));
    expect(results.reduce((sum, { failed }) => sum + failed, 0)).toBe(1);
    expect(await rejectionOf(flow.admit(honest))).toBe("image_invalid");
  });

  test("a hostile one adds nothing to any blob, also not to those it is right about", async () => {
    const directory = await tempDir();
    const image = readFixture("nydus-v2-dict");
    const { devices } = await new RafsRig(native, directory).admit(image);
    expect(devices.length).toBeGreaterThan(1);
    const [first] = devices;
    if (first === undefined) throw new Error("it has devices");
    await rm(join(directory, "state", "maps", first.digest.slice("sha256:".length)));
    const next = new RafsRig(native, directory);
    // One row of a blob that is known says something else.
    const { rows } = parseFixture(image.bootstrap);
    const refused = await rejectionOf(next.admit(withForgedDigest(image, rowOfLast(rows))));
    expect(refused).toBe("image_invalid");
    expect(await next.streams.mapOf(first.digest)).toBeUndefined();
    expect(next.dropped).toEqual([]);
  });

  test("of which one contradicts the other: when both come at once, one is refused", async () => {
    const flow = await rig();
    // So long that the other is ready too: it must wait for its turn.
    flow.dropMs = 300;
    const honest = readFixture("nydus");
    const outcomes = await Promise.all(
      [honest, withForgedDigest(honest)].map((image) => rejectionOf(flow.admit(image))),
    );
    expect(outcomes.toSorted()).toEqual(["image_invalid", "resolved"]);
  });

  test("are served by the next daemon with what each of them vouches for", async () => {
    const directory = await tempDir();
    const flow = new RafsRig(native, directory);
    await flow.admit(readFixture("nydus-v2-dict"));
    const { devices } = await flow.admit(readFixture("nydus"));
    const next = new RafsRig(native, directory);
    for (const device of devices) {
      expect(await readAll(next, device)).toEqual(await readAll(flow, device));
      const [now, then] = [await mapOf(next, device), await mapOf(flow, device)];
      const trusted = (map: RafsChunkMap) =>
        Array.from({ length: map.chunkCount }, (_, index) => map.isTrusted(index));
      expect(trusted(now)).toEqual(trusted(then));
    }
  });

  test("one that has a digest for something else is refused", async () => {
    const flow = await rig();
    flow.otherUse = "a raw layer there";
    const image = readFixture("nydus");
    expect(await rejectionOf(flow.admit(image))).toBe("image_invalid");
    flow.otherUse = undefined;
    const { devices } = await flow.admit(image);
    expect(flow.dropped).toHaveLength(devices.length);
  });

  test("are not complete without the chunk maps of all their blobs", async () => {
    const directory = await tempDir();
    const content = await new RafsRig(native, directory).admit(readFixture("nydus"));
    await rm(join(directory, "state", "maps"), { recursive: true });
    expect(await new RafsRig(native, directory).streams.isComplete(content)).toBe(false);
  });

  test("the contradiction is remembered by the next daemon", async () => {
    const directory = await tempDir();
    const honest = readFixture("nydus");
    await new RafsRig(native, directory).admit(honest);
    const next = new RafsRig(native, directory);
    expect(await rejectionOf(next.admit(withForgedDigest(honest, 3)))).toBe("image_invalid");
  });

  test("what is cached of a blob that nothing is known of is dropped before it is trusted", async () => {
    const flow = await rig();
    const content = await flow.admit(readFixture("nydus"));
    expect(flow.dropped.toSorted()).toEqual(content.devices.map(({ digest }) => digest).toSorted());
    await flow.admit(readFixture("nydus"));
    expect(flow.dropped.length).toBe(content.devices.length);
  });
});

describe("a blob with one bit turned", () => {
  test.each(["nydus", "nydus-lz4", "nydus-none", "nydus-batch", "nydus-zran", "lz4-sha256"])(
    "%s: the chunks of that unit fail, all others are right",
    async (name) => {
      const image = readFixture(name);
      let damaged = 0;
      for (const share of [0.1, 0.37, 0.62]) {
        const flow = await rig(DAMAGED_READ_MS);
        const content = await flow.admit(image, (blob) => {
          const bytes = Uint8Array.from(blob);
          // Before the tables at the blob's end, so that it is data that differs.
          const at = Math.floor(bytes.length * share);
          bytes[at] = (bytes[at] ?? 0) ^ 0x10;
          return bytes;
        });
        for (const device of content.devices) {
          const { failed, served } = await readAll(flow, device);
          damaged += failed;
          expect(failed).toBeLessThanOrEqual(3);
          expect(served + failed).toBeGreaterThan(0);
        }
      }
      expect(damaged).toBeGreaterThan(0);
    },
  );
});

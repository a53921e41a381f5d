// SPDX-License-Identifier: Apache-2.0
// One chunk map a blob, on disk before anybody relies on it.

import { readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Streams } from "../../../src/flow/streams.ts";
import { RafsChunkMap } from "../../../src/image/rafs/chunk-map.ts";
import { type Native, loadNative } from "../../../src/platform/native.ts";
import { StreamStore } from "../../../src/state/stream-store.ts";
import type { Digest } from "../../../src/units.ts";
import { rejectionOf } from "../../support/fault-code.ts";
import { asDigest } from "../../support/flow-rig.ts";
import { ScriptedSource } from "../../support/scripted-source.ts";
import { readFixture } from "../../support/rafs-fixtures.ts";
import { RafsRig } from "../../support/rafs-rig.ts";
import { tempDir } from "../../support/temp-dir.ts";

let native: Native;
beforeAll(() => {
  native = loadNative({ writerThreads: 2 });
});
afterAll(() => native.destroy());

const hexOf = (digest: Digest): string => digest.slice("sha256:".length);

/** A chunk map in a store of its own, and streams that know nothing of it yet. */
async function stored() {
  const directory = await tempDir();
  const rig = new RafsRig(native, directory);
  const { devices } = await rig.admit(readFixture("nydus"));
  const digest = devices[0]?.digest;
  if (digest === undefined) throw new Error("it has a device");
  const store = new StreamStore(join(directory, "state"));
  const streams = new Streams({
    source: new ScriptedSource(),
    store,
    decoder: () => Promise.reject(new Error("nothing is decoded here")),
    live: () => undefined,
  });
  return { directory, rig, digest, store, streams };
}

describe("a chunk map", () => {
  test("that somebody has is never loaded a second time, however many others were", async () => {
    const { digest, store, streams } = await stored();
    const map = await streams.mapOf(digest);
    if (map === undefined) throw new Error("it is on disk");
    for (let other = 0; other < 100; other += 1) {
      const id = other.toString(16).padStart(64, "0");
      const otherDigest = asDigest(id);
      const bytes = Buffer.concat(map.serialize());
      bytes.write(id, 64, "latin1");
      const copy = RafsChunkMap.deserialize(new Uint8Array(bytes), "a copy");
      await store.saveMap(otherDigest, copy);
      await streams.mapOf(otherDigest);
    }
    expect(await streams.mapOf(digest)).toBe(map);
  });

  test("that is built while an older one is being loaded is the one that everybody gets", async () => {
    const { digest, store, streams } = await stored();
    const built = await store.loadMap(digest);
    if (built === undefined) throw new Error("it is on disk");
    const loading = streams.mapOf(digest);
    await streams.keepMap(digest, built);
    expect(await loading).toBe(built);
    expect(await streams.mapOf(digest)).toBe(built);
  });
});

test("a map of which a bit has turned on the disk is not used", async () => {
  const { directory, digest, store } = await stored();
  const path = join(directory, "state", "maps", hexOf(digest));
  const bytes = await readFile(path);
  // In a chunk's digest.
  const at = bytes.length - 8;
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  await writeFile(path, bytes);
  expect(await rejectionOf(store.loadMap(digest))).toBe("state_damaged");
  expect(await store.loadMap(digest)).toBeUndefined();
});

test("a map that could not be saved is saved when the image is taken in again", async () => {
  const directory = await tempDir();
  const rig = new RafsRig(native, directory);
  const maps = join(directory, "state", "maps");
  await rig.admit(readFixture("nydus-lz4"));
  // A file where the directory should be: nothing can be written there, whoever tries.
  await rename(maps, `${maps}.away`);
  await writeFile(maps, "");
  const image = readFixture("nydus");
  expect(await rejectionOf(rig.admit(image))).not.toBe("resolved");
  await rm(maps);
  await rename(`${maps}.away`, maps);
  const { devices } = await rig.admit(image);
  const next = new RafsRig(native, directory);
  for (const { digest } of devices) {
    expect(await next.streams.mapOf(digest), hexOf(digest)).toBeDefined();
  }
});

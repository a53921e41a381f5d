// SPDX-License-Identifier: Apache-2.0

import { readFile } from "node:fs/promises";
import { gunzipSync } from "node:zlib";
import { expect, onTestFinished, test } from "vitest";
import { loadNative } from "../../../src/platform/native.ts";
import { contentPieces } from "../../bench/host/content.ts";
import { sameBytes } from "../../support/flow-rig.ts";
import { writeRafsImage } from "../../support/rafs-image.ts";
import { RafsRig } from "../../support/rafs-rig.ts";
import { tempDir } from "../../support/temp-dir.ts";

const CHUNK_BYTES = 64 * 1024;
/** The last chunk is cut. */
const BYTES = 5 * CHUNK_BYTES - 1000;

test("an image made for the benchmark is taken in, verified and read as it was made", async () => {
  const directory = await tempDir();
  const pieces = () => contentPieces(BYTES, CHUNK_BYTES, 1);
  const made = await writeRafsImage(directory, pieces(), CHUNK_BYTES);
  const tar = gunzipSync(await readFile(made.bootstrapLayerPath));
  const bootstrapBytes = Number.parseInt(tar.toString("latin1", 124, 136), 8);
  const blob = new Uint8Array(await readFile(made.blobPath));
  const native = loadNative({ writerThreads: 1 });
  onTestFinished(() => native.destroy());
  const rig = new RafsRig(native, directory);
  const bootstrap = new Uint8Array(tar.subarray(512, 512 + bootstrapBytes));
  const content = await rig.admit({ bootstrap, blob: () => blob });
  const [device] = content.devices;
  if (device === undefined) throw new Error("it has a device");
  expect([device.digest, device.size]).toEqual([`sha256:${made.blobId}`, made.sizeBytes]);
  const object = await rig.open(device);
  const read = await rig.read(object, 0, made.sizeBytes);
  expect(read.answer).toBe("complete");
  const expected = Buffer.alloc(made.sizeBytes);
  let at = 0;
  for (const piece of pieces()) at += Buffer.from(piece).copy(expected, at);
  expect(sameBytes(object.file, expected)).toBe(true);
  expect(made.dataBytes).toBeLessThan(0.8 * BYTES);
});

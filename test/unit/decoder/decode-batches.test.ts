// SPDX-License-Identifier: Apache-2.0
// Which units go to a thread together, and that each hears of its own end.

import { constants } from "node:os";
import { expect, test } from "vitest";
import { DecodeBatches } from "../../../src/decoder/decode-batches.ts";
import type { DecodeBatch, DecodeJob } from "../../../src/platform/native.ts";
import { rejectionOf } from "../../support/fault-code.ts";
import { turns } from "../../support/turns.ts";

const slab = new Uint8Array(64 * 4096);
const target = slab.subarray(0, 32 * 4096);

/** A native that holds every job until the test lets it go. */
function held() {
  const singles: DecodeJob[] = [];
  const batches: DecodeBatch[] = [];
  const ends: ((errnos: readonly number[]) => void)[] = [];
  const native = {
    decode: (job: DecodeJob) =>
      new Promise<void>((resolve) => {
        singles.push(job);
        ends.push(() => {
          resolve();
        });
      }),
    decodeMany: (batch: DecodeBatch) =>
      new Promise<Float64Array>((resolve) => {
        batches.push(batch);
        ends.push((errnos) => {
          resolve(Float64Array.from(batch.units, (_, n) => -(errnos[n] ?? 0)));
        });
      }),
  };
  return { native, singles, batches, ends };
}

function job(n: number, change: Partial<DecodeJob> = {}): DecodeJob {
  return {
    codec: "zstd",
    source: slab.subarray((32 + n) * 4096, (32 + n) * 4096 + 100),
    sourceOffset: 0,
    sourceLength: 100,
    decodedBytes: 4096,
    target,
    pieces: Uint32Array.of(0, 4096, n * 4096),
    ...change,
  };
}

test("units of one turn and one memory go together, each with its place", async () => {
  const { native, batches, ends } = held();
  const decoding = new DecodeBatches(native, 1);
  const all = Promise.all([decoding.decode(job(1)), decoding.decode(job(3))]);
  await turns();
  expect(batches.map(({ units }) => units.map(({ sourceOffset }) => sourceOffset))).toEqual([
    [0, 2 * 4096],
  ]);
  expect(batches[0]?.source.byteOffset).toBe(33 * 4096);
  ends[0]?.([]);
  await all;
});

test("what comes while all cores are busy waits, and then goes together", async () => {
  const { native, singles, batches, ends } = held();
  const decoding = new DecodeBatches(native, 1);
  const all = [decoding.decode(job(0))];
  await turns();
  for (const n of [1, 2, 3]) {
    all.push(decoding.decode(job(n)));
    await turns();
  }
  expect([singles.length, batches.length]).toEqual([1, 0]);
  ends[0]?.([]);
  await turns();
  expect(batches.map(({ units }) => units.length)).toEqual([3]);
  ends[1]?.([]);
  await Promise.all(all);
});

test("a unit that fails fails alone", async () => {
  const { native, ends } = held();
  const decoding = new DecodeBatches(native, 1);
  const right = decoding.decode(job(0));
  const wrong = rejectionOf(decoding.decode(job(1)));
  await turns();
  ends[0]?.([0, constants.errno.EBADMSG]);
  await right;
  expect(await wrong).toBe("syscall_failed");
});

test("large units, other memory and slices of a deflate stream do not go together", async () => {
  const { native, singles, batches } = held();
  const decoding = new DecodeBatches(native, 8);
  const start = { dictionary: new Uint8Array(), bits: 0, byte: 0 };
  void decoding.decode(job(0, { decodedBytes: 700_000 }));
  void decoding.decode(job(1, { decodedBytes: 700_000 }));
  void decoding.decode(job(2, { target: new Uint8Array(4096 * 8) }));
  void decoding.decode(job(3, { start, codec: "inflate" }));
  await turns();
  expect([singles.length, batches.length]).toEqual([4, 0]);
});

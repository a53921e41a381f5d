// SPDX-License-Identifier: Apache-2.0

import { createHash } from "node:crypto";
import { setImmediate } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { type DecodeUnit, createDecoder } from "../../../src/decoder/unit-decoder.ts";
import { DaemonError } from "../../../src/errors.ts";
import type { Unit } from "../../../src/image/chunk-map.ts";
import type { DecodeJob } from "../../../src/platform/native.ts";
import { BLOCK_BYTES, MIB } from "../../../src/units.ts";
import { faultFrom } from "../../support/faults.ts";
import { patternBytes } from "../../support/flow-rig.ts";

const B = BLOCK_BYTES;

/** A native decode that copies, as codec "none" does. */
function copied({ source, pieces, target }: DecodeJob): Promise<void> {
  for (let at = 0; at < pieces.length; at += 3) {
    const [from = 0, length = 0, offset = 0] = pieces.subarray(at, at + 3);
    target.set(source.subarray(from, from + length), offset);
  }
  return Promise.resolve();
}

/** `content` as one unit of pieces of `pieceBytes`, at logical `offset`. */
function unitOf(content: Uint8Array, pieceBytes: number, offset = 0): Unit {
  const count = Math.ceil(content.length / pieceBytes);
  const pieces = Array.from({ length: count }, (_, index) => {
    const bytes = content.subarray(index * pieceBytes, (index + 1) * pieceBytes);
    const digest = new Uint8Array(createHash("sha256").update(bytes).digest());
    const from = index * pieceBytes;
    return { offset: offset + from, from, length: bytes.length, digest };
  });
  const stored = { offset: 0, length: content.length };
  return { stored, codec: "none", decodedBytes: content.length, pieces };
}

/** Each unit here has memory of its own, so none is decoded in company. */
const notHere = (): Promise<Float64Array> => Promise.reject(new Error("no company"));

async function decoder(
  decode: (job: DecodeJob) => Promise<void>,
  nextTurn: () => Promise<void> = () => setImmediate(),
): Promise<DecodeUnit> {
  const make = await createDecoder({ native: { decode, decodeMany: notHere }, nextTurn });
  return make({ digester: "sha256", blob: "b", where: "here" });
}

describe("a unit", () => {
  test("is refused when any of its pieces is not what its digest says", async () => {
    const decode = await decoder(copied);
    const content = patternBytes(3 * B);
    const unit = unitOf(content, B);
    const into = { bytes: new Uint8Array(3 * B), offset: 0 };
    await decode(unit, content, into);
    for (const at of [0, B, 3 * B - 1]) {
      const damaged = Uint8Array.from(content);
      damaged[at] = (damaged[at] ?? 0) ^ 1;
      expect(await faultFrom(decode(unit, damaged, into))).toMatchObject({
        code: "digest_mismatch",
      });
    }
  });

  test("that cannot be decoded is the blob's fault; a machine's fault stays what it is", async () => {
    const fails = (errnoName: string) => () => {
      const syscall = { syscall: "decode", errno: 1, errnoName, detail: "" };
      return Promise.reject(new DaemonError({ code: "syscall_failed", ...syscall }));
    };
    const content = patternBytes(B);
    const into = { bytes: new Uint8Array(B), offset: 0 };
    const codeOf = async (errnoName: string) => {
      const decode = await decoder(fails(errnoName));
      return (await faultFrom(decode(unitOf(content, B), content, into))).code;
    };
    expect(await codeOf("EBADMSG")).toBe("blob_truncated");
    expect(await codeOf("ENOMEM")).toBe("syscall_failed");
    expect(await codeOf("ECANCELED")).toBe("syscall_failed");
  });
});

test.each([
  ["one piece", 1, 5 * MIB],
  ["many small pieces", 1, 2 * B],
  ["many units at once", 16, 64 * B],
])("%s: no more than 1 MiB is hashed between two turns", async (_, units, pieceBytes) => {
  let turns = 0;
  const decode = await decoder(copied, async () => {
    turns += 1;
    await setImmediate();
  });
  const content = patternBytes(5 * MIB);
  const unit = unitOf(content, pieceBytes);
  const decodeOne = () => decode(unit, content, { bytes: new Uint8Array(5 * MIB), offset: 0 });
  await Promise.all(Array.from({ length: units }, decodeOne));
  expect(turns).toBeGreaterThanOrEqual(5 * units - 1);
});

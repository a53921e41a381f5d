// SPDX-License-Identifier: Apache-2.0
// Decode jobs in the middle of deflate streams: at any bit, with a dictionary, across members.

import { constants } from "node:os";
import { deflateRawSync, gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DeflateBits } from "./compress.ts";
import {
  CODEC,
  type Decoders,
  type Unit,
  decoded as decodedBy,
  run as runIn,
  sample,
  startDecoders,
} from "./decoding.ts";

const { EBADMSG } = constants.errno;

let decoders: Decoders;
beforeAll(() => {
  decoders = startDecoders(2);
});
afterAll(async () => {
  await decoders.end(decoders.raw.destroy());
});
const run = (unit: Unit) => runIn(decoders, unit);
const decoded = (unit: Unit) => decodedBy(decoders, unit);

const plain = sample(300_001);

describe("a slice of a deflate stream", () => {
  test("begins with any number of bits of the byte before it", async () => {
    const seen = new Set<number>();
    for (let nines = 0; nines < 8; nines += 1) {
      const stream = new DeflateBits();
      // 10 bits of frame, 8 a literal below 144, 9 a literal from there on.
      stream.block([...Array<number>(50).fill(65), ...Array<number>(nines).fill(200)]);
      const { bits } = stream;
      const before = Uint8Array.from(stream.decoded);
      stream.block([72, 105, 33], { final: true, distance: 40 });
      const bytes = stream.bytes();
      const at = Math.ceil(bits / 8);
      const start = { dictionary: before, bits: at * 8 - bits, byte: bytes[at - 1] ?? 0 };
      seen.add(start.bits);
      const unit = { codec: CODEC.inflate, source: bytes.subarray(at), decodedBytes: 6, start };
      expect([...(await decoded(unit))]).toEqual(stream.decoded.slice(before.length));
    }
    expect(seen.size).toBe(8);
  });

  test("may refer to the first byte of a full dictionary, and not to one before it", async () => {
    const dictionary = sample(32_768, 3);
    const stream = new DeflateBits();
    stream.decoded.push(...dictionary);
    stream.block([], { final: true, distance: 32_768 });
    const unit = { codec: CODEC.inflate, source: stream.bytes(), decodedBytes: 3 };
    const start = { dictionary, bits: 0, byte: 0 };
    expect(Buffer.compare(await decoded({ ...unit, start }), dictionary.subarray(0, 3))).toBe(0);
    expect(await run({ ...unit, start: { ...start, dictionary: dictionary.subarray(1) } })).toBe(
      -EBADMSG,
    );
    expect(await run(unit)).toBe(-EBADMSG);
  });

  test("keeps nothing of the slices before it", async () => {
    const inflate = {
      codec: CODEC.inflate,
      source: deflateRawSync(plain),
      decodedBytes: plain.length,
    };
    const withBits = { dictionary: plain.subarray(0, 32_768), bits: 5, byte: 0xff };
    await Promise.all(Array.from({ length: 8 }, () => run({ ...inflate, start: withBits })));
    expect(Buffer.compare(await decoded(inflate), plain)).toBe(0);
  });
});

describe("gzip members inside a unit", () => {
  const HEADER_BYTES = 10;
  const member = gzipSync(sample(5000, 4));

  /** A member whose header has the fields of `flags`. */
  function dressed(bytes: Buffer, flags: number): Buffer {
    const fields: Buffer[] = [];
    if ((flags & 4) !== 0) fields.push(Buffer.from([3, 0, 0, 1, 0]));
    if ((flags & 8) !== 0) fields.push(Buffer.from("name\0"));
    if ((flags & 16) !== 0) fields.push(Buffer.from("comment\0"));
    if ((flags & 2) !== 0) fields.push(Buffer.from([1, 2]));
    const header = Buffer.from(bytes.subarray(0, HEADER_BYTES));
    header[3] = flags;
    return Buffer.concat([header, ...fields, bytes.subarray(HEADER_BYTES)]);
  }

  test.each(Array.from({ length: 16 }, (_, i) => i * 2))(
    "follow on, header flags %i",
    async (flags) => {
      const source = Buffer.concat([gzipSync(plain), gzipSync(""), dressed(member, flags)]);
      const unit = {
        codec: CODEC.inflate,
        source: source.subarray(HEADER_BYTES),
        decodedBytes: plain.length + 5000,
      };
      const whole = Buffer.concat([plain, sample(5000, 4)]);
      expect(Buffer.compare(await decoded(unit), whole)).toBe(0);
    },
  );

  test("do not see the bytes before them", async () => {
    const back = new DeflateBits();
    back.decoded.push(...Array<number>(500).fill(65));
    back.block([66], { final: true, distance: 300 });
    const first = new DeflateBits();
    first.block(Array<number>(500).fill(65), { final: true });
    const source = Buffer.concat([
      first.bytes(),
      Buffer.alloc(8),
      gzipSync("").subarray(0, 10),
      back.bytes(),
    ]);
    expect(await run({ codec: CODEC.inflate, source, decodedBytes: 504 })).toBe(-EBADMSG);
    expect(await run({ codec: CODEC.inflate, source, decodedBytes: 501 })).toBe(0);
  });

  test("that are cut anywhere in trailer or header are EBADMSG", async () => {
    const first = gzipSync(plain).subarray(HEADER_BYTES);
    const second = dressed(member, 30);
    const decodedBytes = plain.length + 5000;
    for (let more = -8; more < HEADER_BYTES + 20; more += 1) {
      const source = Buffer.concat([first, second]).subarray(0, first.length + more);
      expect(await run({ codec: CODEC.inflate, source, decodedBytes })).toBe(-EBADMSG);
    }
  });

  test.each([
    ["reserved flags", 3, 0x20],
    ["another method", 2, 7],
    ["no magic", 1, 0x8c],
  ])("with %s are EBADMSG", async (_, at, value) => {
    const second = Buffer.from(member);
    second[at] = value;
    const source = Buffer.concat([gzipSync(plain).subarray(HEADER_BYTES), second]);
    expect(await run({ codec: CODEC.inflate, source, decodedBytes: plain.length + 5000 })).toBe(
      -EBADMSG,
    );
  });
});

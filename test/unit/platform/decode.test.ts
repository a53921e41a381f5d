// SPDX-License-Identifier: Apache-2.0
// Decode jobs of the addon: what each codec takes and refuses, where pieces go, the bound on
// threads, and the end of a pool with jobs in it.

import { readFileSync, readdirSync } from "node:fs";
import { stat } from "node:fs/promises";
import { constants } from "node:os";
import { crc32, deflateRawSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { KIB, MIB } from "../../../src/units.ts";
import { lz4Block, zstdFrame } from "./compress.ts";
import {
  CODEC,
  type Decoders,
  NO_BYTES,
  type Unit,
  blocks,
  decoded as decodedBy,
  run as runIn,
  sample,
  startDecoders,
  submit,
} from "./decoding.ts";

const { EBADMSG, ECANCELED } = constants.errno;

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
const stored = {
  none: { codec: CODEC.none, source: plain, decodedBytes: plain.length },
  lz4: { codec: CODEC.lz4, source: lz4Block(plain), decodedBytes: plain.length },
  zstd: { codec: CODEC.zstd, source: zstdFrame(plain), decodedBytes: plain.length },
  inflate: { codec: CODEC.inflate, source: deflateRawSync(plain), decodedBytes: plain.length },
};
const names = ["none", "lz4", "zstd", "inflate"] as const;

describe("each codec", () => {
  test.each(names)("%s gives the bytes back", async (name) => {
    expect(Buffer.compare(await decoded(stored[name]), plain)).toBe(0);
  });

  test.each(names)("%s: cut short, it is EBADMSG", async (name) => {
    const unit = stored[name];
    for (const length of [0, 1, 5, unit.source.length >> 1, unit.source.length - 12]) {
      expect(await run({ ...unit, source: unit.source.subarray(0, length) })).toBe(-EBADMSG);
    }
  });

  test.each(names)("%s: fewer bytes than promised are EBADMSG", async (name) => {
    const unit = stored[name];
    expect(await run({ ...unit, decodedBytes: plain.length + 1 })).toBe(-EBADMSG);
  });

  test.each(["none", "lz4", "zstd"] as const)("%s: more than promised is EBADMSG", async (name) => {
    const unit = stored[name];
    expect(await run({ ...unit, decodedBytes: plain.length - 1 })).toBe(-EBADMSG);
    expect(await run({ ...unit, decodedBytes: 1 })).toBe(-EBADMSG);
  });

  test.each(["none", "lz4", "zstd"] as const)(
    "%s: bytes after its end are EBADMSG",
    async (name) => {
      const unit = stored[name];
      for (const tail of [1, 4, 64]) {
        const source = Buffer.concat([unit.source, Buffer.alloc(tail, 7)]);
        expect(await run({ ...unit, source })).toBe(-EBADMSG);
      }
    },
  );

  test.each(["lz4", "zstd", "inflate"] as const)("%s: nonsense is EBADMSG", async (name) => {
    for (let seed = 1; seed < 40; seed += 1) {
      const source = Uint8Array.from(
        { length: 2000 },
        (_, i) => Math.imul(i + seed, 2_654_435_761) >>> 24,
      );
      expect(await run({ ...stored[name], source })).toBe(-EBADMSG);
    }
  });

  test.each(["lz4", "zstd", "inflate"] as const)(
    "%s: any byte changed never goes past the target",
    async (name) => {
      const { source, codec } = stored[name];
      const target = new Uint8Array(blocks(plain.length) + 8192).fill(0xee);
      for (let at = 0; at < 400; at += 1) {
        const changed = Buffer.from(source);
        changed[at] = (changed[at] ?? 0) ^ (1 + (at % 255));
        const pieces = [0, plain.length, 4096];
        expect([0, -EBADMSG]).toContain(
          await run({ codec, source: changed, decodedBytes: plain.length, target, pieces }),
        );
      }
      const outside = [
        ...target.subarray(0, 4096),
        ...target.subarray(4096 + blocks(plain.length)),
      ];
      expect(outside.every((byte) => byte === 0xee)).toBe(true);
    },
  );

  test("inflate does not look at what follows the wanted bytes", async () => {
    const { codec, source } = stored.inflate;
    const unit = {
      codec,
      source: Buffer.concat([source, Buffer.alloc(100, 255)]),
      decodedBytes: 70_000,
    };
    expect(Buffer.compare(await decoded(unit), plain.subarray(0, 70_000))).toBe(0);
    expect(await run({ ...unit, decodedBytes: plain.length })).toBe(0);
  });
});

describe("zstd frames", () => {
  const second = sample(50_000, 9);
  const skippable = Buffer.from([0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
  const both = Buffer.concat([plain, second]);

  test("one after another are one unit, with skippable ones between", async () => {
    const source = Buffer.concat([zstdFrame(plain), skippable, zstdFrame(second)]);
    const unit = { codec: CODEC.zstd, source, decodedBytes: both.length };
    expect(Buffer.compare(await decoded(unit), both)).toBe(0);
    expect(await run({ ...unit, decodedBytes: both.length - 1 })).toBe(-EBADMSG);
    expect(await run({ ...unit, decodedBytes: plain.length })).toBe(-EBADMSG);
  });

  test("of a format before 1.0 are EBADMSG", async () => {
    const source = Buffer.from(zstdFrame(plain));
    source[0] = 0x27;
    expect(await run({ codec: CODEC.zstd, source, decodedBytes: plain.length })).toBe(-EBADMSG);
  });
});

describe("pieces", () => {
  test.each(names)("%s: go where they are told, with zeros to the block's end", async (name) => {
    const target = new Uint8Array(8 * 4096).fill(0xee);
    const pieces = [100, 10, 4096, 200_000, 5000, 3 * 4096, 0, 4096, 6 * 4096, 7, 0, 7 * 4096];
    expect(await run({ ...stored[name], target, pieces })).toBe(0);
    const expected = Buffer.alloc(8 * 4096, 0xee);
    expected.fill(0, 4096, 2 * 4096).fill(0, 3 * 4096, 5 * 4096);
    plain.copy(expected, 4096, 100, 110);
    plain.copy(expected, 3 * 4096, 200_000, 205_000);
    plain.copy(expected, 6 * 4096, 0, 4096);
    expect(Buffer.compare(target, expected)).toBe(0);
  });

  test("may be none", async () => {
    expect(await run({ ...stored.zstd, pieces: [] })).toBe(0);
  });

  test("16 MiB is the most, and more than one thread may hold that much", async () => {
    const large = sample(16 * MIB, 5);
    const source = zstdFrame(large, 1);
    const target = new Uint8Array(large.length);
    const pieces = [0, 8 * MIB, 0, 8 * MIB, 8 * MIB, 8 * MIB];
    const unit = { codec: CODEC.zstd, source, decodedBytes: large.length, pieces };
    const other = new Uint8Array(large.length);
    expect(await Promise.all([run({ ...unit, target }), run({ ...unit, target: other })])).toEqual([
      0, 0,
    ]);
    expect([crc32Of(target), crc32Of(other)]).toEqual([crc32Of(large), crc32Of(large)]);
    expect(() => submit(decoders.raw, { ...unit, decodedBytes: large.length + 1 })).toThrow(
      RangeError,
    );
  });
});

const crc32Of = (bytes: Uint8Array): number => crc32(bytes);

const one = new Uint8Array(4096);
const call =
  (...changes: readonly [number, unknown][]) =>
  () => {
    const args: unknown[] = [
      0,
      one,
      0,
      4096,
      4096,
      NO_BYTES,
      0,
      0,
      new Uint8Array(8192),
      Uint32Array.of(0, 4096, 0),
    ];
    for (const [at, value] of changes) args[at] = value;
    return decoders.raw.decode(...args);
  };
const refused: [string, () => unknown, typeof TypeError | typeof RangeError, RegExp][] = [
  ["codec", call([0, 4]), RangeError, /^decode: "codec"/],
  ["codec by name", call([0, "zstd"]), TypeError, /"codec"/],
  ["source", call([1, "text"]), TypeError, /"source"/],
  ["sourceOffset", call([2, 4097]), RangeError, /"sourceOffset"/],
  ["sourceLength", call([2, 1]), RangeError, /"sourceLength"/],
  ["decodedBytes 0", call([4, 0]), RangeError, /"decodedBytes"/],
  ["decodedBytes", call([4, 16 * MIB + 1]), RangeError, /"decodedBytes"/],
  ["dictionary", call([5, undefined]), TypeError, /"dictionary"/],
  ["long dictionary", call([5, new Uint8Array(32 * KIB + 1)]), RangeError, /"dictionary"/],
  ["bits", call([6, 8]), RangeError, /"bits"/],
  ["byte", call([7, 256]), RangeError, /"byte"/],
  ["target", call([8, new Float64Array(8)]), TypeError, /"target"/],
  ["target is the source", call([8, one]), RangeError, /"target" must be other memory/],
  ["pieces", call([9, new Float64Array(3)]), TypeError, /"pieces"/],
  ["half a piece", call([9, Uint32Array.of(0, 1)]), RangeError, /"pieces" .* triples/],
  ["piece past the end", call([9, Uint32Array.of(1, 4096, 0)]), RangeError, /within the decoded/],
  ["wrapped piece", call([9, Uint32Array.of(0xffff_ffff, 2, 0)]), RangeError, /within the decoded/],
  ["piece off a block", call([9, Uint32Array.of(0, 1, 512)]), RangeError, /whole blocks/],
  ["piece past the target", call([9, Uint32Array.of(0, 1, 8192)]), RangeError, /within the target/],
  [
    "padding past the target",
    call([8, new Uint8Array(4095)], [9, Uint32Array.of(0, 1, 0)]),
    RangeError,
    /within the target/,
  ],
];

describe("a wrong argument is refused:", () => {
  test.each(refused)("%s", (_, wrong, kind, message) => {
    expect(wrong).toThrow(kind);
    expect(wrong).toThrow(message);
  });
});

describe("the pool", () => {
  const large = sample(8 * MIB, 6);
  const unit = {
    codec: CODEC.inflate,
    source: deflateRawSync(large, { level: 1 }),
    decodedBytes: large.length,
  };

  /** The states of the process's threads of that name. */
  function threads(name: string): string[] {
    return readdirSync("/proc/self/task").flatMap((id) => {
      try {
        const line = readFileSync(`/proc/self/task/${id}/stat`, "utf8");
        return line.includes(`(${name})`)
          ? [line.slice(line.lastIndexOf(")") + 2, line.lastIndexOf(")") + 3)]
          : [];
      } catch {
        return [];
      }
    });
  }

  test("has exactly its threads; others of the process answer while 32 large units wait", async () => {
    const before = threads("erofsd-decode").length;
    const pool = startDecoders(1);
    const target = new Uint8Array(large.length);
    const jobs = Array.from({ length: 32 }, () => submit(pool.raw, { ...unit, target }));
    const all = Promise.all(jobs.map((job) => pool.end(job)));
    await stat("/");
    expect(pool.ends.length).toBeLessThan(32);
    expect(await all).toEqual(jobs.map(() => 0));
    expect(threads("erofsd-decode")).toHaveLength(before + 1);
    // One thread: one at a time, in the order they came.
    expect(pool.ends).toEqual(jobs);
    expect(await pool.end(pool.raw.destroy())).toBe(0);
    expect(threads("erofsd-decode")).toHaveLength(before);
  });

  test("destroyed with jobs in it ends each: done, or ECANCELED", async () => {
    const pool = startDecoders(2);
    const jobs = Array.from({ length: 20 }, () => submit(pool.raw, unit));
    const ends = Promise.all(jobs.map((job) => pool.end(job)));
    expect(await pool.end(pool.raw.destroy())).toBe(0);
    const results = await ends;
    expect(results.every((result) => result === 0 || result === -ECANCELED)).toBe(true);
    expect(results.filter((result) => result === -ECANCELED).length).toBeGreaterThan(10);
    expect(submit(pool.raw, unit)).toBe(-ECANCELED);
  });
});

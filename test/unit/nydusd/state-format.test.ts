// SPDX-License-Identifier: Apache-2.0

import { describe, expect, test } from "vitest";
import { crc64 } from "../../../src/nydusd/crc64.ts";
import { recollect } from "../../../src/nydusd/recollection.ts";
import { StateDamaged, formatState, parseState } from "../../../src/nydusd/state-format.ts";
import { nydusdState } from "./nydusd-state.ts";

const IMAGES = [
  { id: "a", domain_id: "a" },
  { id: "b", domain_id: "shared" },
];

test("the checksum is CRC-64/Jones", () => {
  expect(crc64(Buffer.from("123456789"))).toBe(0xe9c6d914c4b8d9can);
});

describe("a state", () => {
  test("of ours is read as it was written", () => {
    const state = { serial: 7, threads: 4, fscacheDir: "/c", images: IMAGES };
    expect(parseState(formatState(state))).toEqual({ ...state, foreign: undefined });
  });

  test("of nydusd's is read, and has a name of its own", () => {
    const state = parseState(nydusdState(IMAGES));
    expect(state).toMatchObject({ serial: 0, threads: 4, fscacheDir: "/cache", images: IMAGES });
    expect(state.foreign).toMatch(/^[0-9a-f]{16}$/);
    // 57 bytes are what nydusd writes without images, for a directory of 15 letters.
    expect(nydusdState([], "/123456789/1234")).toHaveLength(57);
  });

  test.each<[string, Uint8Array]>([
    ["empty", new Uint8Array()],
    ["no JSON", Buffer.from("x")],
    ["another JSON", Buffer.from("[]")],
    ["a version to come", Buffer.from('{"format":"erofsd-nydusd","version":2}')],
    [
      "ours, cut off",
      formatState({ serial: 1, threads: 4, fscacheDir: "", images: [] }).slice(0, 30),
    ],
    ["ours, without images", Buffer.from('{"format":"erofsd-nydusd","version":1,"serial":1}')],
    ["nydusd's, cut off", nydusdState(IMAGES).subarray(0, 60)],
    ["nydusd's magic alone", nydusdState([]).subarray(0, 8)],
    [
      "nydusd's, 32 KiB of it",
      nydusdState(Array.from({ length: 100 }, () => ({ id: "x".repeat(500) }))).subarray(0, 32768),
    ],
  ])("that is %s is damaged", (_, bytes) => {
    expect(() => parseState(bytes)).toThrow(StateDamaged);
  });

  test("of nydusd's with lengths beyond its end is damaged, whatever its checksum says", () => {
    const bytes = nydusdState(IMAGES);
    bytes.writeBigUInt64LE(1n << 40n, 18);
    bytes.writeBigUInt64LE(crc64(bytes.subarray(0, -8)), bytes.length - 8);
    expect(() => parseState(bytes)).toThrow(StateDamaged);
  });
});

describe("what is served after another daemon", () => {
  const state = { threads: 4, fscacheDir: "/c", images: ["state"], foreign: undefined };
  const journal = { adopted: undefined, images: ["journal"] };

  test.each([
    ["no state, no journal", undefined, undefined, "nothing"],
    ["no state", undefined, { ...journal, serial: 1 }, "journal"],
    ["no journal", { ...state, serial: 1 }, undefined, "state"],
    ["a journal that is older", { ...state, serial: 5 }, { ...journal, serial: 4 }, "state"],
    ["a journal as old", { ...state, serial: 5 }, { ...journal, serial: 5 }, "journal"],
    ["a newer journal", { ...state, serial: 5 }, { ...journal, serial: 9 }, "journal"],
    [
      "nydusd's state and a journal from before it",
      { ...state, serial: 0, foreign: "aa" },
      { ...journal, serial: 9 },
      "state",
    ],
    [
      "nydusd's state and the journal that began with it",
      { ...state, serial: 0, foreign: "aa" },
      { ...journal, serial: 9, adopted: "aa" },
      "journal",
    ],
  ])("%s", (_, saved, recorded, from) => {
    expect(recollect(saved, recorded).from).toBe(from);
  });
});

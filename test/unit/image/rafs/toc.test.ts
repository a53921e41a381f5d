// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import {
  TOC_TAIL_BYTES,
  checkSections,
  parseTableOfContents,
} from "../../../../src/image/rafs/toc.ts";
import { parseFixture, readFixture } from "../../../support/rafs-fixtures.ts";

const image = readFixture("nydus");
const [blob] = parseFixture(image.bootstrap).blobs;
if (blob === undefined) throw new Error("an image without blobs");
const layer = image.blob(blob.id);
const tail = layer.subarray(-TOC_TAIL_BYTES);
const HEADER = TOC_TAIL_BYTES - 512;
const NAMES = ["image.blob", "blob.meta", "blob.meta.header", "blob.digest", "image.boot"];

function parse(edit: (bytes: Uint8Array, view: DataView) => void) {
  const bytes = Uint8Array.from(tail);
  edit(bytes, new DataView(bytes.buffer));
  return parseTableOfContents(bytes, layer.length, "it");
}

const entryAt = (name: string): number => {
  const { entries } = parse(() => undefined);
  return HEADER - entries.size * 128 + [...entries.keys()].indexOf(name) * 128;
};

describe("a table of contents", () => {
  it("names the sections, also the one whose name fills its field", () => {
    const { entries, entryBytes, allBytes } = parse(() => undefined);
    expect([...entries.keys()].toSorted()).toEqual(NAMES.toSorted());
    expect([entryBytes.length, allBytes.length]).toEqual([5 * 128, 5 * 128 + 512]);
    const header = entries.get("blob.meta.header");
    expect(header?.stored.length).toBe(4096);
    expect(header?.stored.offset).toBe(blob.chunkInfo.offset + blob.chunkInfo.storedBytes);
  });

  it.each<[string, (bytes: Uint8Array, view: DataView) => void, RegExp]>([
    ["another name", (bytes) => (bytes[HEADER] = 0x52), /does not end with/],
    ["no tar header", (bytes) => bytes.fill(0, HEADER), /does not end with/],
    ["a size that is no number", (bytes) => (bytes[HEADER + 130] = 0x39), /octal/],
    ["a size of nothing", (bytes) => bytes.fill(0x30, HEADER + 124, HEADER + 135), /0 bytes/],
    ["half an entry", (bytes) => (bytes[HEADER + 134] = 0x31), /whole entries/],
    ["a size before its start", (bytes) => (bytes[HEADER + 128] = 0x37), /whole entries/],
    ["an unknown codec", (_, view) => view.setUint32(entryAt("blob.meta"), 8, true), /flags 0x8/],
    [
      "a section behind it",
      (_, view) => view.setUint32(entryAt("blob.meta") + 64, 1 << 30, true),
      /behind/,
    ],
    ["an empty name", (bytes) => (bytes[entryAt("blob.meta") + 8] = 0), /proper name/],
    [
      "a name twice",
      (bytes) => {
        const from = entryAt("blob.meta") + 8;
        bytes.copyWithin(entryAt("blob.digest") + 8, from, from + 16);
      },
      /twice/,
    ],
  ])("is refused for %s", (_, edit, text) => {
    expect(() => parse(edit)).toThrow(text);
  });

  it("is refused when the tail is not all of it", () => {
    expect(() => parseTableOfContents(tail.subarray(1), layer.length, "it")).toThrow(/cut/);
    expect(() => parseTableOfContents(tail.subarray(0, 9), 9, "it")).toThrow(/too short/);
  });

  it.each<[string, string, number]>([
    ["chunk infos elsewhere", "blob.meta", 56],
    ["chunk infos of another stored size", "blob.meta", 64],
    ["chunk infos of another size", "blob.meta", 72],
    ["a header elsewhere", "blob.meta.header", 56],
    ["another number of digests", "blob.digest", 64],
  ])("must not have %s", (_, name, field) => {
    const toc = parse((bytes) => {
      const at = entryAt(name) + field;
      bytes[at] = (bytes[at] ?? 0) ^ 1;
    });
    expect(() => checkSections(toc, blob, "it")).toThrow(`has another ${name} than`);
  });

  it("must have the sections that are looked for", () => {
    const toc = parse((bytes) => (bytes[entryAt("blob.meta") + 8] = 0x42));
    expect(() => checkSections(toc, blob, "it")).toThrow("lacks blob.meta");
  });
});

// SPDX-License-Identifier: Apache-2.0
// What is taken for a trace, and what is refused: one error, which names the line.

import { describe, expect, test } from "vitest";
import {
  distinctBytes,
  fileShares,
  NO_FILE,
  TouchedExtents,
} from "../../../src/image/trace-files.ts";
import { TRACE_BYTES_MAX, parseTrace, readTrace } from "../../../src/image/trace-format.ts";
import { nextTurn } from "../../../src/platform/clock.ts";
import { thrownBy } from "../../support/fault-code.ts";

const DIGEST = `sha256:${"a".repeat(64)}`;
const HEAD = {
  erofsdTrace: 1,
  startedAt: "2026-01-31T12:00:00.000Z",
  version: "0.1.0",
  image: { reference: "r.example/app:1", manifestDigest: DIGEST },
};
const STREAM = { stream: 0, digest: DIGEST, key: "key", sizeBytes: 40_000 };
const READS = [
  { ms: 0, stream: 0, offset: 4096, length: 8192 },
  { ms: 5, stream: 0, offset: 8192, length: 8192 },
];
const FILES = [
  { file: "/a", parts: [[0, 4096, 4096]] },
  { file: "/b", parts: [[0, 8192, 8192]] },
];
const END = { end: "time", reads: 2, dropped: 0 };
const LINES: readonly object[] = [HEAD, STREAM, ...READS, ...FILES, END];

const text = (lines: readonly object[]): string =>
  lines.map((line) => `${JSON.stringify(line)}\n`).join("");

function refusal(given: string): string {
  try {
    parseTrace(given, "t");
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
  return "taken";
}

describe("a trace", () => {
  test("gives back what is in it, whole or by pieces, and passes over what is not known", async () => {
    const unknown = [HEAD, { ...STREAM, more: 1 }, { news: true }, ...READS, ...FILES, END];
    const trace = parseTrace(text(unknown), "t");
    expect(trace).toEqual(parseTrace(text(LINES), "t"));
    expect(trace).toEqual(await readTrace(Buffer.from(text(LINES)), "t", nextTurn));
    expect(trace).toMatchObject({ image: HEAD.image, reads: READS, files: FILES, dropped: 0 });
    expect(trace.streams).toEqual([STREAM]);
  });

  test.each<readonly [string, string, string]>([
    ["nothing", "", "t, line 0: it is empty"],
    ["foreign", "#!/bin/sh\n", "t, line 1: it is no trace of erofsd"],
    ["foreign JSON", '{"a":1}\n', "t, line 1: it is no trace of erofsd"],
    ["newer", '{"erofsdTrace":2}\n', "t, line 1: it is a trace of version 2; known is 1"],
    ["cut", text(LINES.slice(0, -1)), "t, line 6: it is cut off: its last line is missing"],
    ["cut within", text(LINES).slice(0, 300), "t, line 2: it is not JSON"],
    ["lines lost", text([HEAD, STREAM, ...READS.slice(1), END]), "t, line 4: it has 1 of 2 reads"],
    ["more behind", text([...LINES, STREAM]), "t, line 8: something comes behind its end"],
    ["unnamed stream", text([HEAD, ...READS, END]), "t, line 2: stream 0 has not been named"],
    [
      "beyond",
      text([HEAD, STREAM, { ms: 0, stream: 0, offset: 40_960, length: 4096 }]),
      "t, line 3: it is beyond the end of stream 0",
    ],
    ["twice", text([HEAD, STREAM, STREAM]), "t, line 3: its stream has come before"],
  ])("that is %s is refused in one line that says where", (_, given, message) => {
    expect(refusal(given)).toBe(message);
  });

  test("is refused for any number that is none", () => {
    for (const wrong of [-1, 0.5, 1e300, "1", null]) {
      for (const field of ["offset", "length", "stream"] as const) {
        const lines = [HEAD, STREAM, { ...READS[0], [field]: wrong }, END];
        expect([field, wrong, thrownBy(() => parseTrace(text(lines), "t"))]).toEqual([
          field,
          wrong,
          "trace_invalid",
        ]);
      }
    }
  });

  test("is refused when it is too large, before all of it is looked at", () => {
    const huge = text([HEAD, STREAM]) + "\n".repeat(TRACE_BYTES_MAX);
    expect(refusal(huge)).toContain(`it has more than ${TRACE_BYTES_MAX} bytes`);
  });
});

describe("the files of a trace", () => {
  test("get each byte once, in the order in which they were first read", () => {
    const trace = parseTrace(text(LINES), "t");
    expect(fileShares(trace)).toEqual([
      { path: "/a", reads: 1, bytes: 4096, firstMs: 0 },
      { path: "/b", reads: 2, bytes: 8192, firstMs: 0 },
    ]);
    expect(distinctBytes(trace.reads)).toBe(12_288);
  });

  test("leave what is no file's to the metadata", () => {
    const reads = [{ ms: 1, stream: 0, offset: 0, length: 20_480 }];
    const shares = fileShares({ reads, files: parseTrace(text(LINES), "t").files });
    expect(shares.map(({ path, bytes }) => [path, bytes])).toEqual([
      [NO_FILE, 8192],
      ["/a", 4096],
      ["/b", 8192],
    ]);
  });

  test("are those that were touched", () => {
    const touched = new TouchedExtents(READS);
    expect(touched.touches(0, { offset: 0, length: 4096 })).toBe(false);
    expect(touched.touches(0, { offset: 0, length: 4097 })).toBe(true);
    expect(touched.touches(0, { offset: 16_384, length: 1 })).toBe(false);
    expect(touched.touches(1, { offset: 4096, length: 4096 })).toBe(false);
  });
});

// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import type { Fault } from "../../../../src/errors.ts";
import type { ResponseHead } from "../../../../src/source/registry/exchange.ts";
import {
  checkRangeAnswer,
  parseContentRange,
  rangeHeader,
  storedSizeOf,
  unsatisfiedRange,
} from "../../../../src/source/registry/range-request.ts";
import type { BlobLocation } from "../../../../src/source/source.ts";
import { faultOf } from "../../../support/faults.ts";
import { digestOf } from "../../../support/oci-image.ts";

const blob: BlobLocation = {
  origin: { kind: "registry", host: "registry.example", repository: "app" },
  digest: digestOf(Uint8Array.of(1)),
  size: 1000,
};
const extent = { offset: 100, length: 50 };

function head(status: number, headers: Record<string, string>): ResponseHead {
  return { host: "registry.example", status, headers: new Map(Object.entries(headers)) };
}

function refusal(status: number, headers: Record<string, string>, asked = extent): Fault {
  return faultOf(() => checkRangeAnswer(head(status, headers), blob, asked));
}

it("writes inclusive ends", () => {
  expect(rangeHeader({ offset: 0, length: 1 })).toBe("bytes=0-0");
  expect(rangeHeader(extent)).toBe("bytes=100-149");
});

describe("Content-Range", () => {
  it.each([
    ["bytes 0-0/1", { extent: { offset: 0, length: 1 }, totalSize: 1 }],
    ["bytes 100-149/1000", { extent, totalSize: 1000 }],
    ["Bytes 100-149/*", { extent, totalSize: undefined }],
  ])("%s is understood", (text, value) => {
    expect(parseContentRange(text)).toEqual(value);
  });

  it.each([
    "",
    "bytes",
    "bytes */1000",
    "bytes 5-3/10",
    "bytes 0-10/10",
    "bytes 0-9/9007199254740993",
    "bytes 0-9",
    "bytes -9/10",
    "bytes 0-/10",
    "bytes=0-9/10",
    "bytes  0-9/10",
    "bytes 0-9/10 ",
    "bytes 0-9/10, 20-29/40",
    "items 0-9/10",
    "bytes 0x0-9/10",
    "bytes 00000000000000000-9/10",
  ])("%j is not", (text) => {
    expect(parseContentRange(text)).toBeUndefined();
  });
});

describe("an answer to a range request", () => {
  it("is believed when it says what was asked", () => {
    checkRangeAnswer(head(206, { "content-range": "bytes 100-149/1000" }), blob, extent);
    checkRangeAnswer(
      head(206, { "content-range": "bytes 100-149/*", "content-length": "50" }),
      blob,
      extent,
    );
  });

  it("may be the whole blob when that was asked", () => {
    const whole = { offset: 0, length: 1000 };
    checkRangeAnswer(head(200, { "content-length": "1000" }), blob, whole);
    expect(refusal(200, { "content-length": "999" }, whole).code).toBe("registry_protocol");
    expect(refusal(200, {}, whole).code).toBe("registry_protocol");
  });

  it.each<[string, number, Record<string, string>, Fault["code"]]>([
    ["a 200", 200, { "content-length": "1000" }, "registry_protocol"],
    ["no Content-Range", 206, {}, "registry_protocol"],
    ["another begin", 206, { "content-range": "bytes 99-149/1000" }, "registry_protocol"],
    ["another end", 206, { "content-range": "bytes 100-148/1000" }, "registry_protocol"],
    ["a longer range", 206, { "content-range": "bytes 100-199/1000" }, "registry_protocol"],
    ["another size", 206, { "content-range": "bytes 100-149/999" }, "blob_truncated"],
    ["a larger size", 206, { "content-range": "bytes 100-149/1001" }, "blob_truncated"],
    [
      "another length",
      206,
      { "content-range": "bytes 100-149/1000", "content-length": "51" },
      "registry_protocol",
    ],
    ["several ranges", 206, { "content-type": "multipart/byteranges" }, "registry_protocol"],
  ])("with %s is refused", (_, status, headers, code) => {
    expect(refusal(status, headers).code).toBe(code);
  });

  it("names both sizes of a truncated blob", () => {
    const detail = "999 bytes stored, 1000 by its manifest";
    expect(refusal(206, { "content-range": "bytes 100-149/999" })).toMatchObject({ detail });
    const gone = unsatisfiedRange(head(416, { "content-range": "bytes */999" }), blob);
    expect(gone.fault).toMatchObject({ code: "blob_truncated", detail });
    expect(unsatisfiedRange(head(416, {}), blob).fault.code).toBe("blob_truncated");
  });
});

describe("the size of a blob", () => {
  const unsized = { ...blob, size: undefined };

  it.each<[string, number, Record<string, string>, number]>([
    ["a 206's total", 206, { "content-range": "bytes 0-0/1000" }, 1000],
    ["a 200's length", 200, { "content-length": "1000" }, 1000],
    ["a 416 of an empty blob", 416, { "content-range": "bytes */0" }, 0],
  ])("is %s", (_, status, headers, size) => {
    expect(storedSizeOf(head(status, headers), unsized)).toBe(size);
  });

  it.each<[string, number, Record<string, string>]>([
    ["a 206 without a total", 206, { "content-range": "bytes 0-0/*" }],
    ["a 206 with another range", 206, { "content-range": "bytes 1-1/1000" }],
    ["a 200 without length", 200, {}],
    ["a 200 without a byte, as proxies report failures", 200, { "content-length": "0" }],
    ["a 416 of a blob that has bytes", 416, { "content-range": "bytes */7" }],
  ])("is not believed from %s", (_, status, headers) => {
    const fault = faultOf(() => storedSizeOf(head(status, headers), unsized));
    expect(fault.code).toBe("registry_protocol");
  });

  it("is the descriptor's, or the blob is damaged", () => {
    const other = head(206, { "content-range": "bytes 0-0/999" });
    expect(faultOf(() => storedSizeOf(other, blob)).code).toBe("blob_truncated");
  });
});

it("a range of a blob of unknown size may be of one of any size that holds it", () => {
  const unsized = { ...blob, size: undefined };
  for (const total of ["150", "99999", "*"]) {
    checkRangeAnswer(head(206, { "content-range": `bytes 100-149/${total}` }), unsized, extent);
  }
  const [whole, length] = [{ offset: 0, length: 50 }, { "content-length": "50" }];
  checkRangeAnswer(head(200, length), unsized, whole);
  const longer = head(200, { "content-length": "51" });
  expect(faultOf(() => checkRangeAnswer(longer, unsized, whole)).code).toBe("registry_protocol");
  const behind = unsatisfiedRange(head(416, { "content-range": "bytes */120" }), unsized);
  expect(behind.fault).toMatchObject({ detail: "120 bytes stored, fewer than were asked for" });
});

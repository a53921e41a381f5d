// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import { parseDocument } from "../../../../src/image/oci/manifest.ts";
import {
  type Platform,
  candidateEntries,
  machinePlatform,
} from "../../../../src/image/oci/platform.ts";
import { faultOf } from "../../../support/faults.ts";
import { OCI_INDEX, OCI_MANIFEST, buildIndex, digestOf } from "../../../support/oci-image.ts";

const AMD64 = { os: "linux", architecture: "amd64" };
const ARM64 = { os: "linux", architecture: "arm64" };
const EROFS = { "os.features": ["erofs"] };

/** The places, in an index of these platforms, of the entries that would be tried. */
function chosen(
  platforms: readonly (object | undefined)[],
  machine: Platform,
  mediaType = OCI_MANIFEST,
  fields: Readonly<Record<number, object>> = {},
): readonly number[] {
  const digests = platforms.map((_, place) => digestOf(Uint8Array.of(place)));
  const entries = platforms.map((platform, place) => {
    const entry = { mediaType, digest: digests[place], size: 10, ...fields[place] };
    return platform === undefined ? entry : { ...entry, platform };
  });
  const { bytes } = buildIndex(entries);
  const document = parseDocument({ bytes, mediaType: OCI_INDEX, where: "x" });
  if (document.kind !== "index") throw new Error("not an index");
  return candidateEntries(document.index, machine, "x").map(({ digest }) =>
    digests.indexOf(digest),
  );
}

describe("choosing from an index", () => {
  it("takes this machine's entries", () => {
    expect(chosen([ARM64, AMD64, { os: "windows", architecture: "amd64" }], AMD64)).toEqual([1]);
  });

  it("prefers the entry that asks for erofs over a plain one", () => {
    expect(chosen([AMD64, { ...AMD64, ...EROFS }, ARM64], AMD64)).toEqual([1, 0]);
  });

  it("prefers an entry marked as Nydus, in either form, over a plain one", () => {
    const feature = { ...AMD64, "os.features": ["nydus.remoteimage.v1"] };
    expect(chosen([AMD64, feature, { ...AMD64, ...EROFS }], AMD64)).toEqual([2, 1, 0]);
    const artifactType = "application/vnd.nydus.image.manifest.v1+json";
    expect(chosen([AMD64, AMD64, ARM64], AMD64, OCI_MANIFEST, { 1: { artifactType } })).toEqual([
      1, 0,
    ]);
  });

  it("skips entries that ask for features we do not offer", () => {
    const other = { ...AMD64, "os.features": ["erofs", "win32k"] };
    expect(chosen([other, AMD64], AMD64)).toEqual([1]);
  });

  it("takes the highest CPU variant the machine runs", () => {
    const arm = (variant?: string): object => ({
      os: "linux",
      architecture: "arm",
      ...(variant === undefined ? {} : { variant }),
    });
    const machine = { os: "linux", architecture: "arm", variant: "v7" };
    expect(chosen([arm("v5"), arm("v8"), arm("v7"), arm("v6")], machine)).toEqual([2, 3, 0]);
    expect(chosen([{ ...ARM64, variant: "v8" }], ARM64)).toEqual([0]);
    expect(chosen([ARM64], { ...ARM64, variant: "v8" })).toEqual([0]);
    expect(chosen([{ ...AMD64, variant: "v3" }, AMD64], AMD64)).toEqual([1]);
  });

  it("keeps the index's order among equals, and looks into a bounded number", () => {
    expect(
      chosen(
        Array.from({ length: 20 }, () => AMD64),
        AMD64,
      ),
    ).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  });

  it("takes the only entry that says no platform, but never guesses among several", () => {
    expect(chosen([undefined], AMD64)).toEqual([0]);
    expect(faultOf(() => chosen([undefined, undefined], AMD64)).code).toBe("image_unsupported");
  });

  it("says what the index has when nothing fits", () => {
    const fault = faultOf(() => chosen([{ ...ARM64, ...EROFS }], AMD64));
    expect(fault).toMatchObject({
      code: "image_unsupported",
      detail: "it has no image for linux/amd64; it has linux/arm64(+erofs)",
    });
    expect(faultOf(() => chosen([], AMD64)).code).toBe("image_unsupported");
  });

  it("does not follow entries that are neither manifest nor index", () => {
    expect(faultOf(() => chosen([AMD64], AMD64, "text/plain")).code).toBe("image_unsupported");
  });
});

it("names a machine as OCI does", () => {
  expect(machinePlatform("x64")).toEqual(AMD64);
  expect(machinePlatform("arm64")).toEqual(ARM64);
  expect(machinePlatform("mips")).toEqual({ os: "linux", architecture: "mips" });
});

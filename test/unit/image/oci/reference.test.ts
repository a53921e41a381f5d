// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import {
  formatReference,
  isRepository,
  parseReference,
  wantedOf,
} from "../../../../src/image/oci/reference.ts";
import { faultOf } from "../../../support/faults.ts";
import { manifestReference } from "../../../support/reference.ts";

const DIGEST = `sha256:${"0123456789abcdef".repeat(4)}`;

describe("a registry reference", () => {
  it.each([
    ["registry.example/app", "registry.example", "app", undefined, undefined],
    ["localhost/app:v1", "localhost", "app", "v1", undefined],
    [
      "localhost:5000/a/b_c/d__e/f-g--h.i:T_1.2-x",
      "localhost:5000",
      "a/b_c/d__e/f-g--h.i",
      "T_1.2-x",
      undefined,
    ],
    ["127.0.0.1:5000/app", "127.0.0.1:5000", "app", undefined, undefined],
    ["[::1]:5000/app:v1", "[::1]:5000", "app", "v1", undefined],
    ["[::1]/app", "[::1]", "app", undefined, undefined],
    [`registry.example/app@${DIGEST}`, "registry.example", "app", undefined, DIGEST],
    [`Registry.Example/app:v1@${DIGEST}`, "registry.example", "app", "v1", DIGEST],
  ])("%s is taken apart", (text, host, repository, tag, digest) => {
    expect(parseReference(text)).toEqual({ kind: "registry", host, repository, tag, digest });
  });

  it("has one canonical form, in which a digest replaces the tag", () => {
    const format = (text: string): string => formatReference(parseReference(text));
    expect(format("LOCALHOST/app")).toBe("localhost/app:latest");
    expect(format("localhost/app:v1")).toBe("localhost/app:v1");
    expect(format(`localhost/app:v1@${DIGEST}`)).toBe(`localhost/app@${DIGEST}`);
    expect(format(format(`localhost/app:v1@${DIGEST}`))).toBe(`localhost/app@${DIGEST}`);
  });

  it("asks for its digest, else its tag, else latest", () => {
    const wanted = (text: string): string => wantedOf(manifestReference(text));
    expect(wanted(`localhost/app:v1@${DIGEST}`)).toBe(DIGEST);
    expect(wanted("localhost/app:v1")).toBe("v1");
    expect(wanted("localhost/app")).toBe("latest");
  });

  it.each([
    ["", /empty/],
    ["app", /host/],
    ["app:v1", /host/],
    ["library/app", /host/],
    ["registry.example", /host/],
    ["registry.example/", /repository is missing/],
    ["registry.example/App", /lower case/],
    ["registry.example/a//b", /not a repository/],
    ["registry.example/../b", /not a repository/],
    ["registry.example/a___b", /not a repository/],
    ["registry.example/-a", /not a repository/],
    ["registry.example/app:", /not a tag/],
    [`registry.example/app:${"t".repeat(129)}`, /not a tag/],
    ["registry.example/app:v1:v2", /not a tag/],
    ["registry.example/app@sha256:12", /sha256/],
    [`registry.example/app@sha512:${"0".repeat(128)}`, /sha256/],
    [`registry.example/app@${DIGEST.toUpperCase()}`, /sha256/],
    ["localhost:0/app", /not a port/],
    ["localhost:65536/app", /not a port/],
    ["localhost:/app", /not a port/],
    ["-a.example/app", /not a host/],
    ["a..example/app", /not a host/],
    ["http://registry.example/app", /port/],
    ["[::1/app", /not a host|not a port/],
    ["user@registry.example/app", /no place for credentials/],
    ["registry.example/a\nb", /control/],
    [`registry.example/${"a".repeat(256)}`, /not a repository/],
    ["x".repeat(5000), /too long/],
  ])("%j is refused with a reason", (text, reason) => {
    const fault = faultOf(() => parseReference(text));
    expect(fault.code).toBe("reference_invalid");
    expect("detail" in fault ? fault.detail : "").toMatch(reason);
  });

  it.each(["user:pass-word@h.example/app", "https://u:pass-word/@@h.example/app@sha256:0"])(
    "%j is refused without what may be a password",
    (text) => {
      const error: unknown = faultOf(() => parseReference(text));
      expect(JSON.stringify(error)).toContain("[secret]@h.example/app");
      expect(JSON.stringify(error)).not.toContain("pass-word");
    },
  );

  it("is parsed in linear time", () => {
    // Expressions of the usual packages take hours for this one.
    expect(isRepository(`${"a".repeat(250)}!`)).toBe(false);
    expect(isRepository(`${"a-".repeat(120)}!`)).toBe(false);
  });
});

describe("a layout reference", () => {
  it.each([
    ["oci:/srv/image", "/srv/image", undefined, undefined],
    ["oci:/srv/image:v1", "/srv/image", "v1", undefined],
    ["oci:/srv/a:b/image", "/srv/a:b/image", undefined, undefined],
    ["oci:./image:v1", "./image", "v1", undefined],
    [`oci:/srv/image@${DIGEST}`, "/srv/image", undefined, DIGEST],
    ["oci:/srv/me@home/image", "/srv/me@home/image", undefined, undefined],
  ])("%s is taken apart", (text, path, tag, digest) => {
    expect(parseReference(text)).toEqual({ kind: "layout", path, tag, digest });
    expect(formatReference(parseReference(text))).toBe(text);
  });

  it("without a tag wants the only manifest", () => {
    expect(wantedOf(manifestReference("oci:/srv/image"))).toBe("");
  });

  it.each(["oci:", "oci::v1", "oci:/srv/image:", "oci:/srv/image:a b", "oci:/srv/\0/x"])(
    "%j is refused",
    (text) => {
      expect(faultOf(() => parseReference(text)).code).toBe("reference_invalid");
    },
  );
});

describe("a Nydus bootstrap", () => {
  it.each([
    ["rafs:/images/a/bootstrap", "/images/a/bootstrap", undefined],
    ["rafs:bootstrap", "bootstrap", undefined],
    ["rafs:/a/boot:v1@x?blobs=/srv/blobs", "/a/boot:v1@x", "/srv/blobs"],
  ])("%s is a file and a directory of blobs", (text, path, blobDirectory) => {
    const reference = parseReference(text);
    expect(reference).toEqual({ kind: "bootstrap", path, blobDirectory });
    expect(formatReference(reference)).toBe(text);
  });

  it.each(["rafs:", "rafs:?blobs=/a", "rafs:/a?blobs=", "rafs:/a?blobs=/b?blobs=/c"])(
    "%s is refused",
    (text) => {
      expect(faultOf(() => parseReference(text)).code).toBe("reference_invalid");
    },
  );
});

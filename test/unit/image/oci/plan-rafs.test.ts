// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import type { Fault } from "../../../../src/errors.ts";
import type { RAFSPlan } from "../../../../src/image/image.ts";
import { parseDocument } from "../../../../src/image/oci/manifest.ts";
import { planImage } from "../../../../src/image/oci/plan-image.ts";
import { faultOf } from "../../../support/faults.ts";
import { type Blob, OCI_MANIFEST, buildImage, digestOf } from "../../../support/oci-image.ts";

const AT = "containerd.io/snapshot/";
const TAR_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip";
const ORIGINAL = digestOf(Uint8Array.of(200));

function blobLayer(content: number, annotations: Record<string, string> = {}): Blob {
  return {
    bytes: Uint8Array.of(content, 1, 2),
    mediaType: "application/vnd.oci.image.layer.nydus.blob.v1",
    annotations: { [`${AT}nydus-blob`]: "true", ...annotations },
  };
}

function bootstrap(annotations: Record<string, string> = {}, mediaType = TAR_GZIP): Blob {
  return {
    bytes: Uint8Array.of(99, 1),
    mediaType,
    annotations: {
      [`${AT}nydus-bootstrap`]: "true",
      [`${AT}nydus-fs-version`]: "6",
      ...annotations,
    },
  };
}

function plan(layers: readonly Blob[], extra: object = {}): RAFSPlan {
  const { bytes } = buildImage(layers, extra).manifest;
  const document = parseDocument({ bytes, mediaType: OCI_MANIFEST, where: "the image" });
  if (document.kind !== "manifest") throw new Error("not a manifest");
  const manifestDigest = digestOf(bytes);
  const made = planImage(document.manifest, { manifestDigest, where: "the image" });
  if (made.kind !== "rafs") throw new Error("not a RAFS plan");
  return made;
}

function refusal(layers: readonly Blob[]): Fault {
  return faultOf(() => plan(layers));
}

describe("a Nydus image", () => {
  it("gives its bootstrap, and its blobs in order", () => {
    const made = plan([blobLayer(1), blobLayer(2), bootstrap()]);
    const digests = [1, 2].map((content) => digestOf(Uint8Array.of(content, 1, 2)));
    expect(made.blobs).toEqual(digests.map((digest) => ({ digest, size: 3 })));
    const digest = digestOf(Uint8Array.of(99, 1));
    expect(made.bootstrap).toEqual({ digest, size: 2, mediaType: TAR_GZIP });
  });

  it("is known by its annotation, in whatever type of manifest and layer", () => {
    const mediaType = "application/vnd.docker.distribution.manifest.v2+json";
    const layer = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    const config = {
      mediaType: "application/vnd.docker.container.image.v1+json",
      digest: ORIGINAL,
      size: 2,
    };
    const made = plan([blobLayer(1), bootstrap({}, layer)], { mediaType, config });
    expect(made.bootstrap.mediaType).toBe(layer);
    const nydus = { ...config, mediaType: "application/vnd.nydus.image.config.v1+json" };
    expect(plan([blobLayer(1), bootstrap()], { config: nydus }).blobs).toHaveLength(1);
  });

  it("names the original an index blob is for", () => {
    const made = plan([blobLayer(1, { [`${AT}nydus-ref`]: ORIGINAL }), bootstrap()]);
    expect(made.blobs[0]?.nydusRef).toBe(ORIGINAL);
  });

  it("may have empty layers, equal blobs, and no blob at all", () => {
    const empty = {
      bytes: Uint8Array.of(7),
      mediaType: TAR_GZIP,
      annotations: { [`${AT}nydus-empty-layer`]: "true" },
    };
    expect(plan([empty, blobLayer(1), blobLayer(1), bootstrap()]).blobs).toHaveLength(1);
    expect(plan([bootstrap()]).blobs).toEqual([]);
  });

  it("need not say its version: its superblock will", () => {
    const { [`${AT}nydus-fs-version`]: _, ...annotations } = bootstrap().annotations ?? {};
    expect(plan([{ ...bootstrap(), annotations }]).kind).toBe("rafs");
  });
});

describe("a Nydus image that is refused", () => {
  it.each<[string, readonly Blob[], RegExp]>([
    ["of RAFS v5", [bootstrap({ [`${AT}nydus-fs-version`]: "5" })], /RAFS v5/],
    [
      "with an encrypted blob",
      [blobLayer(1, { [`${AT}nydus-encrypted-blob`]: "true" }), bootstrap()],
      /layer 0 is encrypted.*nydus-encrypted-blob/,
    ],
    [
      "with an encrypted bootstrap",
      [bootstrap({}, `${TAR_GZIP}+encrypted`)],
      /layer 0 is encrypted/,
    ],
    [
      "with keys of ocicrypt",
      [bootstrap({ "org.opencontainers.image.enc.keys.jwe": "x" })],
      /enc\.keys\.jwe/,
    ],
    [
      "with a tar layer among its blobs",
      [{ bytes: Uint8Array.of(1), mediaType: TAR_GZIP }, bootstrap()],
      /layer 0 is a tar layer.*in a Nydus image/,
    ],
  ])("%s says why", (_, layers, reason) => {
    const fault = refusal(layers);
    expect(fault).toMatchObject({ code: "image_unsupported", where: "the image" });
    expect("detail" in fault ? fault.detail : "").toMatch(reason);
  });

  it("with an original that is no digest is against the format", () => {
    const layers = [blobLayer(1, { [`${AT}nydus-ref`]: "latest" }), bootstrap()];
    expect(refusal(layers).code).toBe("manifest_invalid");
  });
});

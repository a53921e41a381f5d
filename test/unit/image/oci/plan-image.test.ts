// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import type { Fault } from "../../../../src/errors.ts";
import type { EROFSPlan } from "../../../../src/image/image.ts";
import { parseDocument } from "../../../../src/image/oci/manifest.ts";
import { planImage } from "../../../../src/image/oci/plan-image.ts";
import { faultOf } from "../../../support/faults.ts";
import { OCI_MANIFEST, buildImage, digestOf } from "../../../support/oci-image.ts";

const EROFS = "application/vnd.erofs";
const LAYER_V1 = "application/vnd.erofs.layer.v1";
const CHUNK_INDEX = "application/vnd.erofs.chunk-index.v1";
const DEVICE = { "org.erofs.role": "device" };

interface TestLayer {
  readonly mediaType: string;
  readonly annotations?: Record<string, string>;
  /** Layers of the same content have the same digest. */
  readonly content?: number;
}

function blobOf({ mediaType, annotations, content }: TestLayer, place: number) {
  const bytes = Uint8Array.of(content ?? place, 1, 2);
  return annotations === undefined ? { bytes, mediaType } : { bytes, mediaType, annotations };
}

function plan(layers: readonly TestLayer[], extra: object = {}): EROFSPlan {
  const image = buildImage(layers.map(blobOf), extra);
  const { bytes } = image.manifest;
  const document = parseDocument({ bytes, mediaType: OCI_MANIFEST, where: "the image" });
  if (document.kind !== "manifest") throw new Error("not a manifest");
  const manifestDigest = digestOf(bytes);
  const made = planImage(document.manifest, { manifestDigest, where: "the image" });
  if (made.kind !== "erofs") throw new Error("not an EROFS plan");
  return made;
}

function refusal(layers: readonly TestLayer[], extra: object = {}): Fault {
  return faultOf(() => plan(layers, extra));
}

describe("what is served", () => {
  it.each([EROFS, LAYER_V1])("one layer of %s", (mediaType) => {
    const made = plan([{ mediaType }]);
    expect(made.bootstrap).toEqual({
      digest: digestOf(Uint8Array.of(0, 1, 2)),
      size: 3,
      mediaType,
    });
    expect(made.devices).toEqual([]);
  });

  it("a lone overlay-lower layer", () => {
    const annotations = { "org.erofs.role": "overlay-lower", "org.erofs.unheard-of": "x" };
    expect(plan([{ mediaType: EROFS, annotations }]).devices).toEqual([]);
  });

  it("devices in manifest order before their bootstrap", () => {
    const made = plan([
      { mediaType: EROFS, annotations: DEVICE },
      { mediaType: "application/octet-stream", annotations: DEVICE },
      { mediaType: "application/vnd.oci.image.layer.v1.tar", annotations: DEVICE },
      { mediaType: LAYER_V1 },
    ]);
    const digests = [0, 1, 2].map((place) => digestOf(Uint8Array.of(place, 1, 2)));
    expect(made.devices.map(({ digest }) => digest)).toEqual(digests);
    expect(made.bootstrap.digest).toBe(digestOf(Uint8Array.of(3, 1, 2)));
  });

  it("an image with chunk indexes, which are passed over", () => {
    const annotations = { "org.erofs.chunk-index.target": digestOf(Uint8Array.of(0, 1, 2)) };
    const made = plan([
      { mediaType: EROFS, annotations: DEVICE },
      { mediaType: CHUNK_INDEX, annotations },
      { mediaType: EROFS },
    ]);
    expect(made.devices).toHaveLength(1);
  });
});

describe("what is refused, and why", () => {
  it.each<[string, readonly TestLayer[], RegExp]>([
    [
      "a tar layer",
      [{ mediaType: "application/vnd.oci.image.layer.v1.tar+gzip" }],
      /a tar layer.*served are/,
    ],
    [
      "a Docker layer",
      [{ mediaType: "application/vnd.docker.image.rootfs.diff.tar.gzip" }],
      /a tar layer/,
    ],
    ["a zstd EROFS layer", [{ mediaType: `${EROFS}+zstd` }], /zstd-compressed EROFS/],
    ["a zstd v1 layer", [{ mediaType: `${LAYER_V1}+zstd` }], /zstd-compressed EROFS/],
    ["an unknown layer", [{ mediaType: "application/x-thing" }], /application\/x-thing/],
    ["several EROFS layers", [{ mediaType: EROFS }, { mediaType: EROFS }], /overlay/],
    [
      "overlay-data",
      [
        { mediaType: EROFS, annotations: { "org.erofs.role": "overlay-data" } },
        { mediaType: EROFS },
      ],
      /overlay-data/,
    ],
    [
      "an unknown role",
      [{ mediaType: EROFS, annotations: { "org.erofs.role": "verity" } }],
      /unknown role/,
    ],
    [
      "a compressed device",
      [
        { mediaType: "application/vnd.oci.image.layer.v1.tar+zstd", annotations: DEVICE },
        { mediaType: EROFS },
      ],
      /stored raw/,
    ],
    [
      "a device twice",
      [
        { mediaType: EROFS, annotations: DEVICE, content: 5 },
        { mediaType: EROFS, annotations: DEVICE, content: 5 },
        { mediaType: EROFS },
      ],
      /repeats/,
    ],
    ["a Nydus blob", [{ mediaType: "application/vnd.oci.image.layer.nydus.blob.v1" }], /Nydus/],
    [
      "a Nydus bootstrap that is not last",
      [
        {
          mediaType: "application/vnd.oci.image.layer.v1.tar+gzip",
          annotations: { "containerd.io/snapshot/nydus-bootstrap": "true" },
        },
        { mediaType: EROFS },
      ],
      /Nydus/,
    ],
    ["no layers", [], /no layers/],
  ])("%s", (_, layers, reason) => {
    const fault = refusal(layers);
    expect(fault).toMatchObject({ code: "image_unsupported", where: "the image" });
    expect("detail" in fault ? fault.detail : "").toMatch(reason);
  });

  it("an artifact", () => {
    const config = {
      mediaType: "application/vnd.cncf.helm.config.v1+json",
      digest: digestOf(Uint8Array.of()),
      size: 2,
    };
    const fault = refusal([{ mediaType: EROFS }], { config });
    expect(fault).toMatchObject({ code: "image_unsupported" });
    expect("detail" in fault ? fault.detail : "").toMatch(/artifact/);
  });

  it.each<[string, readonly TestLayer[]]>([
    ["a device last", [{ mediaType: EROFS, annotations: DEVICE }]],
    [
      "overlay-data last",
      [{ mediaType: EROFS, annotations: { "org.erofs.role": "overlay-data" } }],
    ],
    ["a chunk index first", [{ mediaType: CHUNK_INDEX }, { mediaType: EROFS }]],
    ["a chunk index last", [{ mediaType: EROFS }, { mediaType: CHUNK_INDEX }]],
    [
      "a chunk index for another layer",
      [
        { mediaType: EROFS, annotations: DEVICE },
        { mediaType: CHUNK_INDEX, annotations: { "org.erofs.chunk-index.target": "sha256:0" } },
        { mediaType: EROFS },
      ],
    ],
  ])("%s is against the specification", (_, layers) => {
    expect(refusal(layers).code).toBe("manifest_invalid");
  });
});

// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import {
  type Document,
  LAYERS_MAX,
  MANIFEST_BYTES_MAX,
  parseDocument,
} from "../../../../src/image/oci/manifest.ts";
import { faultOf } from "../../../support/faults.ts";
import { OCI_INDEX, OCI_MANIFEST, buildImage, jsonBytes } from "../../../support/oci-image.ts";

const DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json";
const layer = { bytes: new Uint8Array(4096), mediaType: "application/vnd.erofs" };
const image = buildImage([layer]);

function parse(value: unknown, mediaType = ""): Document {
  return parseDocument({ bytes: jsonBytes(value), mediaType, where: "the document" });
}

/** A sound manifest with some fields replaced. */
function changed(fields: object): object {
  const [descriptor] = image.layerDescriptors;
  return {
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    config: { mediaType: "c/c", digest: descriptor?.digest, size: 2 },
    layers: [descriptor],
    ...fields,
  };
}

function changedLayer(fields: object): object {
  return changed({ layers: [{ ...image.layerDescriptors[0], ...fields }] });
}

describe("a manifest document", () => {
  it("gives its layers with digest, size and annotations", () => {
    const annotations = { "org.erofs.role": "device" };
    const built = buildImage([{ ...layer, annotations }]);
    const document = parseDocument({
      bytes: built.manifest.bytes,
      mediaType: OCI_MANIFEST,
      where: "x",
    });
    expect(document).toMatchObject({
      kind: "manifest",
      manifest: { layers: built.layerDescriptors },
    });
  });

  it("is told from an index by its own type, then the given one, then its shape", () => {
    expect(parse(changed({})).kind).toBe("manifest");
    expect(parse(changed({ mediaType: DOCKER_MANIFEST }), DOCKER_LIST).kind).toBe("manifest");
    expect(parse(changed({ mediaType: undefined }), `${OCI_MANIFEST}; charset=utf-8`).kind).toBe(
      "manifest",
    );
    expect(parse(changed({ mediaType: undefined })).kind).toBe("manifest");
    expect(parse({ schemaVersion: 2, manifests: [] }).kind).toBe("index");
    expect(parse({ schemaVersion: 2, manifests: [] }, DOCKER_LIST).kind).toBe("index");
    expect(parse({ schemaVersion: 2, mediaType: OCI_INDEX, manifests: [] }).kind).toBe("index");
  });

  it.each([
    ["layers.0.digest", changedLayer({ digest: "sha256:1" })],
    ["layers.0.digest", changedLayer({ digest: `sha512:${"0".repeat(128)}` })],
    ["layers.0.digest", changedLayer({ digest: 7 })],
    ["layers.0.size", changedLayer({ size: 0 })],
    ["layers.0.size", changedLayer({ size: -1 })],
    ["layers.0.size", changedLayer({ size: 1.5 })],
    ["layers.0.size", changedLayer({ size: 2 ** 53 })],
    ["layers.0.size", changedLayer({ size: "4096" })],
    ["layers.0.mediaType", changedLayer({ mediaType: "" })],
    ["layers.0.annotations", changedLayer({ annotations: [] })],
    ["layers.0.annotations.a", changedLayer({ annotations: { a: 1 } })],
    ["layers", changed({ layers: {} })],
    ["layers", changed({ layers: Array(LAYERS_MAX + 1).fill(image.layerDescriptors[0]) })],
    ["config", changed({ config: undefined })],
    ["schemaVersion", changed({ schemaVersion: 3 })],
    ["manifests", { schemaVersion: 2, mediaType: OCI_INDEX }],
    ["it is both", changed({ manifests: [] })],
  ])("names the field %s that is wrong", (field, value) => {
    const fault = faultOf(() => parse(value));
    expect(fault).toMatchObject({ code: "manifest_invalid", where: "the document" });
    expect("detail" in fault ? fault.detail : "").toMatch(new RegExp(`^${field}`));
  });

  it.each([
    ["not JSON", new TextEncoder().encode("{")],
    ["not UTF-8", Uint8Array.of(0x22, 0xff, 0x22)],
    ["an array", jsonBytes([])],
    ["null", jsonBytes(null)],
    ["nested without end", new TextEncoder().encode("[".repeat(200_000))],
    ["too large", new Uint8Array(MANIFEST_BYTES_MAX + 1)],
  ])("that is %s is invalid", (_, bytes) => {
    const fault = faultOf(() => parseDocument({ bytes, mediaType: "", where: "x" }));
    expect(fault.code).toBe("manifest_invalid");
  });

  it("of another kind is not served", () => {
    const signature = changed({ mediaType: "application/vnd.oci.artifact.manifest.v1+json" });
    expect(faultOf(() => parse(signature)).code).toBe("image_unsupported");
    expect(faultOf(() => parse({ schemaVersion: 1, fsLayers: [] })).code).toBe("image_unsupported");
  });

  it("of an index may list digests that are not ours", () => {
    const entry = { mediaType: OCI_MANIFEST, digest: "sha512:12", size: 0 };
    expect(parse({ schemaVersion: 2, manifests: [entry] }).kind).toBe("index");
  });
});

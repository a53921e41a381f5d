// SPDX-License-Identifier: Apache-2.0
// From a reference to a plan, at a real registry and in a real layout.
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { EROFSPlan } from "../../src/image/image.ts";
import type { Source } from "../../src/source/source.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { createLayoutSource } from "../../src/source/layout.ts";
import { createRegistrySource } from "../../src/source/registry/registry-source.ts";
import { type ResolvedImage, resolveImage } from "../../src/source/resolve-image.ts";
import { createSources } from "../../src/source/sources.ts";
import { type RunningRegistry, startDockerRegistry } from "../support/docker-registry.ts";
import { faultFrom } from "../support/faults.ts";
import { mkfsErofs, writeTree } from "../support/mkfs.ts";
import {
  type Blob,
  type BuiltImage,
  buildImage,
  buildIndex,
  describe as descriptorOf,
  writeLayout,
} from "../support/oci-image.ts";
import { pushBlob, pushBuiltImage, pushManifest } from "../support/push.ts";
import { manifestReference } from "../support/reference.ts";

const AMD64 = { os: "linux", architecture: "amd64" };
const EROFS = { ...AMD64, "os.features": ["erofs"] };

let folder: string;
let registry: RunningRegistry;
let source: Source;
let erofs: BuiltImage;
let tar: BuiltImage;
let multi: BuiltImage;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "erofsd-resolve-"));
  registry = await startDockerRegistry();
  source = createSources({
    registry: () => Promise.resolve(createRegistrySource({ clock: systemClock, random: () => 0 })),
    layout: () => Promise.resolve(createLayoutSource({ clock: systemClock })),
    directory: () => Promise.reject(new Error("there is no directory here")),
  });
  const tree = await writeTree(folder);
  const data = join(folder, "data");
  await mkfsErofs(join(folder, "single"), tree);
  await mkfsErofs(join(folder, "multi"), tree, ["--chunksize=4096", `--blobdev=${data}`]);
  const layer = async (name: string, annotations?: Record<string, string>): Promise<Blob> => {
    const blob = { bytes: await readFile(join(folder, name)), mediaType: "application/vnd.erofs" };
    return annotations === undefined ? blob : { ...blob, annotations };
  };
  erofs = buildImage([await layer("single")]);
  const device = await layer("data", { "org.erofs.role": "device" });
  multi = buildImage([device, await layer("multi")]);
  const tarType = "application/vnd.oci.image.layer.v1.tar+gzip";
  tar = buildImage([{ bytes: Uint8Array.of(1, 2, 3), mediaType: tarType }]);
  for (const [tag, image] of Object.entries({ erofs, tar, multi })) {
    await pushBuiltImage(target(), tag, image);
  }
});

afterAll(async () => {
  await source.close();
  await registry.stop();
  await rm(folder, { recursive: true, force: true });
});

function target() {
  return { host: registry.host, repository: "team/app" };
}

type ResolvedEROFSImage = ResolvedImage & { readonly plan: EROFSPlan };

async function resolve(text: string, platform = AMD64): Promise<ResolvedEROFSImage> {
  const resolved = await resolveImage(source, manifestReference(text), platform, {
    signal: new AbortController().signal,
    deadlineMs: systemClock.nowMs() + 20_000,
  });
  const { plan } = resolved;
  if (plan.kind !== "erofs") throw new Error(`a plan of kind ${plan.kind}`);
  return { ...resolved, plan };
}

async function pushIndex(tag: string, entries: readonly object[]): Promise<Blob> {
  const index = buildIndex(entries);
  await pushManifest(target(), tag, index);
  return index;
}

describe("resolving", () => {
  it("an image of one layer", async () => {
    const { plan, origin, manifest } = await resolve(`${registry.host}/team/app:erofs`);
    const [layer] = erofs.layerDescriptors;
    expect(origin).toEqual({ kind: "registry", host: registry.host, repository: "team/app" });
    expect(plan.manifestDigest).toBe(erofs.descriptor.digest);
    expect(manifest.digest).toBe(erofs.descriptor.digest);
    expect(plan.bootstrap).toEqual(layer);
    expect(plan.devices).toEqual([]);
  });

  it("an image with a device, by digest", async () => {
    const { plan } = await resolve(`${registry.host}/team/app@${multi.descriptor.digest}`);
    expect(plan.devices.map(({ digest }) => digest)).toEqual([multi.layerDescriptors[0]?.digest]);
    expect(plan.bootstrap.digest).toBe(multi.layerDescriptors[1]?.digest);
  });

  it("an index takes the erofs entry, and names its manifest", async () => {
    const entries = [
      { ...tar.descriptor, platform: AMD64 },
      { ...erofs.descriptor, platform: EROFS },
    ];
    await pushIndex("index", entries);
    const { plan } = await resolve(`${registry.host}/team/app:index`);
    expect(plan.manifestDigest).toBe(erofs.descriptor.digest);
  });

  it("an index without marks looks into each entry of the platform", async () => {
    const entries = [tar, erofs].map(({ descriptor }) => ({ ...descriptor, platform: AMD64 }));
    await pushIndex("unmarked", entries);
    const { plan } = await resolve(`${registry.host}/team/app:unmarked`);
    expect(plan.manifestDigest).toBe(erofs.descriptor.digest);
  });

  it("an index in an index, but no deeper", async () => {
    let inner = await pushIndex("depth1", [{ ...erofs.descriptor, platform: EROFS }]);
    inner = await pushIndex("depth2", [{ ...descriptorOf(inner), platform: EROFS }]);
    await pushIndex("depth3", [{ ...descriptorOf(inner), platform: EROFS }]);
    const { plan } = await resolve(`${registry.host}/team/app:depth2`);
    expect(plan.manifestDigest).toBe(erofs.descriptor.digest);
    const fault = await faultFrom(resolve(`${registry.host}/team/app:depth3`));
    expect(fault.code).toBe("image_unsupported");
  });

  it("a tar image says what it is and where", async () => {
    const text = `${registry.host}/team/app:tar`;
    const fault = await faultFrom(resolve(text));
    expect(fault).toMatchObject({ code: "image_unsupported", where: text });
    expect("detail" in fault ? fault.detail : "").toMatch(/tar layer.*application\/vnd\.erofs/);
  });

  it("an index without this machine says what it has", async () => {
    await pushIndex("other", [{ ...erofs.descriptor, platform: EROFS }]);
    const arm = { os: "linux", architecture: "arm64" };
    const fault = await faultFrom(resolve(`${registry.host}/team/app:other`, arm));
    expect(fault).toMatchObject({ code: "image_unsupported" });
  });

  it("a tag that is not there", async () => {
    const fault = await faultFrom(resolve(`${registry.host}/team/app:none`));
    expect(fault).toMatchObject({ code: "manifest_not_found", wanted: "none" });
  });

  it("a large blob pushed from a file is read back", async () => {
    const { digest, size } = await pushBlob(target(), { path: join(folder, "single") });
    expect({ digest, size }).toEqual({
      digest: erofs.layerDescriptors[0]?.digest,
      size: erofs.layerDescriptors[0]?.size,
    });
  });

  it("a layout, with its only manifest, and its origin", async () => {
    const root = join(folder, "layout");
    const blobs = [multi.manifest, multi.config, ...multi.layers];
    await writeLayout(root, { blobs, manifests: [multi.descriptor] });
    const { plan, origin } = await resolve(`oci:${root}`);
    expect(origin).toEqual({ kind: "layout", host: "oci", repository: root });
    expect(plan.devices).toHaveLength(1);
    expect((await faultFrom(resolve("oci:layout"))).code).toBe("reference_invalid");
  });
});

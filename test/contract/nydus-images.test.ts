// SPDX-License-Identifier: Apache-2.0
// Nydus images as nydusify wrote them, from a layout and from a real registry: what a reference
// resolves to, and its bootstrap layer unpacked.
import { createHash } from "node:crypto";
import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type IndexEntry, parseDocument } from "../../src/image/oci/manifest.ts";
import { OCI_INDEX } from "../../src/image/oci/media-types.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { fetchBootstrapLayer } from "../../src/source/bootstrap-layer.ts";
import { createLayoutSource } from "../../src/source/layout.ts";
import {
  type ReferenceResolver,
  type ResolvedRAFS,
  createReferenceResolver,
} from "../../src/source/reference-resolver.ts";
import { createRegistrySource } from "../../src/source/registry/registry-source.ts";
import { resolveImage } from "../../src/source/resolve-image.ts";
import type { FetchOptions, Source } from "../../src/source/source.ts";
import { createSources } from "../../src/source/sources.ts";
import { MIB } from "../../src/units.ts";
import { type RunningRegistry, startDockerRegistry } from "../support/docker-registry.ts";
import { faultFrom } from "../support/faults.ts";
import { pushBlob, pushManifest } from "../support/push.ts";
import { tempDir } from "../support/temp-dir.ts";
import { manifestReference } from "../support/reference.ts";

const LAYOUT = join(import.meta.dirname, "../fixtures/rafs/layout");
const AMD64 = { os: "linux", architecture: "amd64" };
const TAGS = ["nydus", "nydus-zran", "nydus-v2-dict"];

let registry: RunningRegistry;
let source: Source;
let resolver: ReferenceResolver;
let index: readonly IndexEntry[];

beforeAll(async () => {
  registry = await startDockerRegistry();
  source = createSources({
    registry: () => Promise.resolve(createRegistrySource({ clock: systemClock, random: () => 0 })),
    layout: () => Promise.resolve(createLayoutSource({ clock: systemClock })),
    directory: () => Promise.reject(new Error("there is no directory here")),
  });
  resolver = createReferenceResolver(source);
  index = await readIndex("index.json");
  await pushFixtures();
});

afterAll(async () => {
  await source.close();
  await registry.stop();
});

async function readIndex(path: string): Promise<readonly IndexEntry[]> {
  const bytes = await readFile(join(LAYOUT, path));
  const document = parseDocument({ bytes, mediaType: OCI_INDEX, where: path });
  if (document.kind !== "index") throw new Error(`${path} is no index`);
  return document.index.manifests;
}

function tagOf({ annotations }: IndexEntry): string {
  return annotations?.["org.opencontainers.image.ref.name"] ?? "";
}

/** All blobs, then the images to be resolved with what they refer to first. */
async function pushFixtures(): Promise<void> {
  const target = { host: registry.host, repository: "team/app" };
  const folder = join(LAYOUT, "blobs/sha256");
  for (const name of await readdir(folder)) await pushBlob(target, { path: join(folder, name) });
  const multi = index.find((entry) => tagOf(entry) === "nydus-multi");
  const inner = await readIndex(`blobs/sha256/${multi?.digest.slice(7)}`);
  const wanted = index.filter((entry) => [...TAGS, "nydus-multi"].includes(tagOf(entry)));
  const entries = [...inner, ...wanted];
  for (const { mediaType, digest } of entries) {
    const bytes = await readFile(join(folder, digest.slice(7)));
    const tag = wanted.find((entry) => entry.digest === digest);
    await pushManifest(target, tag === undefined ? digest : tagOf(tag), { bytes, mediaType });
  }
}

function options(): FetchOptions {
  return { signal: new AbortController().signal, deadlineMs: systemClock.nowMs() + 20_000 };
}

const places = ["a layout", "a registry"] as const;

function referenceAt(place: (typeof places)[number], tag: string): string {
  return place === "a layout" ? `oci:${LAYOUT}:${tag}` : `${registry.host}/team/app:${tag}`;
}

async function resolveRafs(reference: string): Promise<ResolvedRAFS> {
  const resolved = await resolver.resolve(reference, options());
  if (resolved.kind !== "rafs") throw new Error(`resolved as ${resolved.kind}`);
  return resolved;
}

const short = ({ digest }: { readonly digest: string }): string => digest.slice(7, 15);

describe.each(places)("in %s", (place) => {
  it.each<[string, string, readonly string[]]>([
    ["nydus", "705389ec", ["d03d4251", "6c7e5de1"]],
    ["nydus-zran", "1e5c8b26", ["fa6b832f", "106789e1"]],
    ["nydus-v2-dict", "22abeceb", ["6eeddff0", "d03d4251", "6c7e5de1"]],
  ])("%s is resolved to its bootstrap and its blobs", async (tag, bootstrap, blobs) => {
    const resolved = await resolveRafs(referenceAt(place, tag));
    expect(resolved.manifestDigest).toBe(index.find((entry) => tagOf(entry) === tag)?.digest);
    expect(short(resolved.bootstrapLayer)).toBe(bootstrap);
    expect(resolved.bootstrapLayer.mediaType).toMatch(/tar\+gzip$/);
    expect(resolved.blobs.map(short)).toEqual(blobs);
    expect(resolved.nydusRefs.size).toBe(tag === "nydus-zran" ? 2 : 0);
  });

  it("an index of a tar and a Nydus image gives the Nydus one, though nothing marks it", async () => {
    const reference = manifestReference(referenceAt(place, "nydus-multi"));
    const { plan } = await resolveImage(source, reference, AMD64, options());
    expect(plan.kind).toBe("rafs");
    expect(plan.manifestDigest.slice(7, 15)).toBe("106e78ff");
  });

  it("the originals of a zran image are there to be read, without their size being known", async () => {
    const { blobs, nydusRefs } = await resolveRafs(referenceAt(place, "nydus-zran"));
    const [first] = blobs;
    const digest = first && nydusRefs.get(first.digest);
    if (first === undefined || digest === undefined) throw new Error("no original");
    const original = { origin: first.origin, digest, size: undefined };
    expect(await source.blobSize(original, options())).toBe(389_202);
    const hash = createHash("sha256");
    const extent = { offset: 0, length: 389_202 };
    await source.readRange(original, extent, (piece) => hash.update(piece), options());
    expect(`sha256:${hash.digest("hex")}`).toBe(digest);
  });

  it("a bootstrap layer is unpacked", async () => {
    const directory = await tempDir();
    const { bootstrapLayer, blobs } = await resolveRafs(referenceAt(place, "nydus"));
    const limits = { ...options(), bytesMax: MIB };
    const files = await fetchBootstrapLayer(source, bootstrapLayer, directory, limits);
    const bytes = await readFile(files.bootstrapPath);
    expect(bytes.length).toBe(files.bootstrapBytes);
    // The superblock's magic (EROFS) where RAFS v6 has it too.
    expect(bytes.readUInt32LE(1024)).toBe(0xe0f5e1e2);
    expect([...files.blobMetas.keys()]).toEqual(blobs.map(({ digest }) => digest.slice(7)));
    for (const { path, bytes: size } of files.blobMetas.values()) {
      expect(await readFile(path)).toHaveLength(size);
    }
    expect(await readdir(directory)).toHaveLength(3);
  });
});

it("RAFS v5 is refused by name", async () => {
  const target = { host: registry.host, repository: "team/app" };
  const path = `blobs/sha256/${index.find((entry) => tagOf(entry) === "nydus")?.digest.slice(7)}`;
  const text = await readFile(join(LAYOUT, path), "utf8");
  const bytes = Buffer.from(text.replaceAll(/(nydus-fs-version": ?)"6"/g, '$1"5"'));
  const mediaType = "application/vnd.oci.image.manifest.v1+json";
  await pushManifest(target, "nydus-v5", { bytes, mediaType });
  const fault = await faultFrom(resolver.resolve(`${registry.host}/team/app:nydus-v5`, options()));
  expect(fault.code).toBe("image_unsupported");
  expect("detail" in fault ? fault.detail : "").toMatch(/RAFS v5/);
});

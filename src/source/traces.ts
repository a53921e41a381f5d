// SPDX-License-Identifier: Apache-2.0
// Traces beside their image in a registry: artifacts that refer to its manifest, one gzipped layer
// each. Listed by the registry, or, where it keeps no lists, under the referrers tag. All that
// comes is bounded and held against its digest.

import { createHash } from "node:crypto";
import { promisify } from "node:util";
import { gunzip, gzip } from "node:zlib";
import { DaemonError } from "../errors.ts";
import {
  type ArtifactDescriptor,
  EMPTY_CONFIG,
  EMPTY_CONFIG_BYTES,
  buildArtifact,
  parseArtifact,
  referrersOf,
  referrersTag,
  sha256,
  withReferrer,
} from "../image/oci/artifact.ts";
import { OCI_INDEX, OCI_MANIFEST } from "../image/oci/media-types.ts";
import { TRACE_BYTES_MAX } from "../image/trace-format.ts";
import { type Digest, MIB } from "../units.ts";
import type { RegistrySource } from "./registry/push.ts";
import { type FetchOptions, type Origin, type Source, formatOrigin } from "./source.ts";

export const TRACE_ARTIFACT = "application/vnd.erofsd.trace.v1";
const TRACE_LAYER = "application/vnd.erofsd.trace.v1.ndjson+gzip";
const LAYER_BYTES_MAX = 4 * MIB;
/** Somebody else may write the list at the same time; who comes last wins, and the other sees it. */
const LIST_TRIES_MAX = 5;

/** Where a registry's lists of referrers are to be had. */
export type ListWay = "api" | "tag";

export interface ListWays {
  get(host: string): ListWay | undefined;
  set(host: string, way: ListWay): unknown;
}

export interface FoundTrace {
  /** Of its manifest. */
  readonly digest: Digest;
  /** The trace's text, UTF-8; what it says is unchecked. */
  readonly bytes: Uint8Array;
}

/**
 * The newest trace of the image `subject`; undefined when there is none. `ways` remembers by host
 * which one of two questions is enough. Faults: registry_*, manifest_invalid, digest_mismatch,
 * trace_invalid.
 */
export async function findTrace(
  source: Source,
  at: { readonly origin: Origin; readonly subject: Digest; readonly ways?: ListWays },
  options: FetchOptions,
): Promise<FoundTrace | undefined> {
  const { origin, subject } = at;
  const list = await referrersList(source, at, options);
  if (list === undefined) return undefined;
  const where = `referrers of ${subject} at ${formatOrigin(origin)}`;
  const [newest] = referrersOf(list, TRACE_ARTIFACT, where);
  if (newest === undefined) return undefined;
  const manifest = await source.fetchManifest(origin, newest.digest, options);
  const of = `${formatOrigin(origin)}@${newest.digest}`;
  const artifact = parseArtifact(manifest.bytes, of);
  if (artifact.artifactType !== TRACE_ARTIFACT || artifact.subject.digest !== subject) {
    const detail = `it is no trace of ${subject}`;
    throw new DaemonError({ code: "manifest_invalid", where: of, detail });
  }
  const packed = await fetchLayer(source, { origin, layer: artifact.layer, where: of }, options);
  return { digest: newest.digest, bytes: await unpack(packed, of) };
}

/**
 * Stores a trace's text as an artifact of the image `subject`; resolves with its manifest's digest.
 * Faults: registry_*, manifest_invalid.
 */
export async function storeTrace(
  registry: RegistrySource,
  at: { readonly origin: Origin; readonly subject: ArtifactDescriptor; readonly createdAt: string },
  { text, options }: { readonly text: Uint8Array; readonly options: FetchOptions },
): Promise<Digest> {
  const { origin, subject, createdAt } = at;
  const packed = await promisify(gzip)(text, { level: 9 });
  if (packed.length > LAYER_BYTES_MAX) {
    const detail = `it has ${packed.length} bytes even when it is packed`;
    throw new DaemonError({ code: "trace_invalid", where: "the trace", detail });
  }
  const layer = { mediaType: TRACE_LAYER, digest: sha256(packed), size: packed.length };
  const config = { digest: EMPTY_CONFIG.digest, bytes: EMPTY_CONFIG_BYTES };
  await registry.putBlob(origin, config, options);
  await registry.putBlob(origin, { digest: layer.digest, bytes: packed }, options);
  const built = buildArtifact({ artifactType: TRACE_ARTIFACT, layer, subject }, createdAt);
  const { digest } = built.entry;
  const manifest = { name: digest, bytes: built.bytes, mediaType: OCI_MANIFEST };
  const isListed = await registry.putManifest(origin, manifest, options);
  if (!isListed) await addToTag(registry, { origin, subject: subject.digest }, { built, options });
  return digest;
}

async function referrersList(
  source: Source,
  at: { readonly origin: Origin; readonly subject: Digest; readonly ways?: ListWays },
  options: FetchOptions,
): Promise<Uint8Array | undefined> {
  const { origin, subject, ways } = at;
  if (ways?.get(origin.host) !== "tag") {
    const asked = { subject, artifactType: TRACE_ARTIFACT };
    const list = await source.fetchReferrers?.(origin, asked, options);
    ways?.set(origin.host, list === undefined ? "tag" : "api");
    if (list !== undefined) return list;
  }
  return taggedList(source, { origin, subject }, options);
}

async function taggedList(
  source: Source,
  { origin, subject }: { readonly origin: Origin; readonly subject: Digest },
  options: FetchOptions,
): Promise<Uint8Array | undefined> {
  try {
    return (await source.fetchManifest(origin, referrersTag(subject), options)).bytes;
  } catch (error) {
    if (error instanceof DaemonError && error.fault.code === "manifest_not_found") return undefined;
    throw error;
  }
}

/** The list is read, added to and written: seen to be in it, or once more. */
async function addToTag(
  registry: RegistrySource,
  at: { readonly origin: Origin; readonly subject: Digest },
  of: { readonly built: ReturnType<typeof buildArtifact>; readonly options: FetchOptions },
): Promise<void> {
  const { origin } = at;
  const { entry } = of.built;
  const name = referrersTag(at.subject);
  const where = `${formatOrigin(origin)}:${name}`;
  for (let tries = 0; tries < LIST_TRIES_MAX; tries += 1) {
    const before = await taggedList(registry, at, of.options);
    const isThere =
      before !== undefined &&
      referrersOf(before, entry.artifactType, where).some(({ digest }) => digest === entry.digest);
    if (isThere) return;
    const bytes = withReferrer(before, entry, where);
    await registry.putManifest(origin, { name, bytes, mediaType: OCI_INDEX }, of.options);
  }
  const detail = "others write it all the time; push again";
  throw new DaemonError({ code: "manifest_invalid", where, detail });
}

async function fetchLayer(
  source: Source,
  of: { readonly origin: Origin; readonly layer: ArtifactDescriptor; readonly where: string },
  options: FetchOptions,
): Promise<Uint8Array> {
  const { origin, layer, where } = of;
  const { digest, size, mediaType } = layer;
  if (size > LAYER_BYTES_MAX || mediaType !== TRACE_LAYER) {
    const detail = `its layer has ${size} bytes of ${mediaType}`;
    throw new DaemonError({ code: "trace_invalid", where, detail });
  }
  const bytes = new Uint8Array(size);
  const hash = createHash("sha256");
  let at = 0;
  const take = (piece: Uint8Array): void => {
    bytes.set(piece, at);
    hash.update(piece);
    at += piece.length;
  };
  await source.readRange({ origin, digest, size }, { offset: 0, length: size }, take, options);
  const actual = `sha256:${hash.digest("hex")}`;
  if (actual === digest) return bytes;
  throw new DaemonError({ code: "digest_mismatch", where, expected: digest, actual });
}

async function unpack(packed: Uint8Array, where: string): Promise<Uint8Array> {
  try {
    return await promisify(gunzip)(packed, { maxOutputLength: TRACE_BYTES_MAX });
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    const detail = `it cannot be unpacked: ${why}`;
    throw new DaemonError({ code: "trace_invalid", where, detail }, { cause: error });
  }
}

// SPDX-License-Identifier: Apache-2.0
// Artifacts that refer to an image: a manifest with one layer and a `subject`, and the lists of
// them that registries keep (OCI image-spec manifest.md "Guidelines for Artifact Usage",
// distribution-spec "Listing Referrers" and "Referrers Tag Schema"). Pure; what a registry says is
// checked here.

import { createHash } from "node:crypto";
import * as z from "zod";
import { DaemonError, invariant } from "../../errors.ts";
import { type Digest, isDigest } from "../../units.ts";
import { MANIFEST_BYTES_MAX } from "./manifest.ts";
import { OCI_INDEX, OCI_MANIFEST } from "./media-types.ts";

const CREATED = "org.opencontainers.image.created";
const REFERRERS_MAX = 4096;
const TEXT_MAX = 4096;

const digest = z.custom<Digest>(
  (value) => typeof value === "string" && isDigest(value),
  "must be sha256: and 64 lower-case hex digits",
);
const descriptor = z.object({
  mediaType: z.string().min(1).max(255),
  digest,
  size: z.int().positive(),
});
export type ArtifactDescriptor = z.infer<typeof descriptor>;

const artifactDocument = z.object({
  schemaVersion: z.literal(2),
  artifactType: z.string().max(TEXT_MAX),
  layers: z.array(descriptor).length(1, "must be one layer"),
  subject: descriptor,
});

/** Entries for others are none of our business: what of one is not as we know it, is passed over. */
const referrer = z.looseObject({
  digest,
  size: z.int().positive(),
  artifactType: z.string().max(TEXT_MAX).optional(),
  annotations: z.record(z.string(), z.string()).optional().catch(undefined),
});
const listDocument = z.looseObject({
  schemaVersion: z.literal(2),
  manifests: z.array(z.looseObject({})).max(REFERRERS_MAX),
});

export const EMPTY_CONFIG_BYTES = Buffer.from("{}");
/** What has an empty object for its config says so with this. */
export const EMPTY_CONFIG = {
  mediaType: "application/vnd.oci.empty.v1+json",
  digest: sha256(EMPTY_CONFIG_BYTES),
  size: 2,
  data: "e30=",
} as const;

export interface Artifact {
  readonly artifactType: string;
  readonly layer: ArtifactDescriptor;
  readonly subject: ArtifactDescriptor;
}

export interface BuiltArtifact {
  readonly bytes: Uint8Array;
  /** As a list of referrers has it. */
  readonly entry: ArtifactDescriptor & {
    readonly artifactType: string;
    readonly annotations: Readonly<Record<string, string>>;
  };
}

/** `createdAt`: RFC 3339. */
export function buildArtifact(artifact: Artifact, createdAt: string): BuiltArtifact {
  const { artifactType, layer, subject } = artifact;
  const annotations = { [CREATED]: createdAt };
  const document = {
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    artifactType,
    config: EMPTY_CONFIG,
    layers: [layer],
    subject,
    annotations,
  };
  const bytes = Buffer.from(JSON.stringify(document));
  const size = bytes.length;
  const about = { mediaType: OCI_MANIFEST, digest: sha256(bytes), size };
  return { bytes, entry: { ...about, artifactType, annotations } };
}

/** Fault: manifest_invalid. */
export function parseArtifact(bytes: Uint8Array, where: string): Artifact {
  const parsed = artifactDocument.safeParse(parseJson(bytes, where));
  if (!parsed.success) throw refused(parsed.error, where);
  const { artifactType, layers, subject } = parsed.data;
  const [layer] = layers;
  invariant(layer !== undefined, "one layer, as the schema says");
  return { artifactType, layer, subject };
}

/** Those of one type, the newest first; what does not say when it was made is older than all. */
export function referrersOf(
  bytes: Uint8Array,
  artifactType: string,
  where: string,
): readonly { readonly digest: Digest; readonly size: number }[] {
  const found = parseList(bytes, where).manifests.flatMap((entry) => {
    const { success, data } = referrer.safeParse(entry);
    return success && data.artifactType === artifactType ? [data] : [];
  });
  const created = ({ annotations }: (typeof found)[number]): number =>
    Date.parse(annotations?.[CREATED] ?? "") || 0;
  return found
    .toSorted((a, b) => created(b) - created(a))
    .map(({ digest: own, size }) => ({ digest: own, size }));
}

/** The tag that lists what refers to `subject` where the registry itself keeps no such list. */
export function referrersTag(subject: Digest): string {
  return subject.replace(":", "-");
}

/**
 * The list `bytes` (undefined: there is none yet) with `entry` in it. Whatever else is in it stays
 * as it is. Fault: manifest_invalid when it is no list, or is full.
 */
export function withReferrer(
  bytes: Uint8Array | undefined,
  entry: BuiltArtifact["entry"],
  where: string,
): Uint8Array {
  const empty = { schemaVersion: 2 as const, mediaType: OCI_INDEX, manifests: [] };
  const list = bytes === undefined ? empty : parseList(bytes, where);
  const others = list.manifests.filter((each) => each["digest"] !== entry.digest);
  const merged = Buffer.from(JSON.stringify({ ...list, manifests: [...others, entry] }));
  if (others.length >= REFERRERS_MAX || merged.length > MANIFEST_BYTES_MAX) {
    throw invalid(where, `it lists ${others.length} referrers already`);
  }
  return merged;
}

export function sha256(bytes: Uint8Array): Digest {
  const text = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
  invariant(isDigest(text), "a SHA-256 is a digest");
  return text;
}

function parseList(bytes: Uint8Array, where: string): z.infer<typeof listDocument> {
  const parsed = listDocument.safeParse(parseJson(bytes, where));
  if (!parsed.success) throw refused(parsed.error, where);
  return parsed.data;
}

function parseJson(bytes: Uint8Array, where: string): unknown {
  if (bytes.length > MANIFEST_BYTES_MAX) {
    throw invalid(where, `it has ${bytes.length} bytes, more than ${MANIFEST_BYTES_MAX}`);
  }
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw invalid(where, "it is not JSON");
  }
}

function refused(error: z.ZodError, where: string): DaemonError {
  const issue = error.issues[0];
  const field = issue?.path.map(String).join(".") ?? "";
  return invalid(where, `${field === "" ? "it" : field}: ${issue?.message ?? "is invalid"}`);
}

function invalid(where: string, detail: string): DaemonError {
  return new DaemonError({ code: "manifest_invalid", where, detail });
}

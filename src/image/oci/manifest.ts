// SPDX-License-Identifier: Apache-2.0
// Manifest and index documents, from bytes to checked values. Both the OCI and the Docker forms
// (OCI image-spec manifest.md, image-index.md, descriptor.md). Only what erofsd acts on is
// checked; a fault names the document and the field. Whether an image is served is decided in
// plan-image.ts, which entry of an index is taken in platform.ts.

import * as z from "zod";
import { DaemonError } from "../../errors.ts";
import { type Digest, isDigest } from "../../units.ts";
import { isIndexType, isManifestType } from "./media-types.ts";

/** OCI distribution-spec asks registries to take manifests of at least 4 MiB; no more is read. */
export const MANIFEST_BYTES_MAX = 4 * 1024 * 1024;
/** An EROFS device table could name 65535; real images have some dozens. */
export const LAYERS_MAX = 1024;
const INDEX_ENTRIES_MAX = 1024;
const TEXT_MAX = 4096;

const mediaType = z.string().min(1).max(255);
const annotations = z.record(z.string().max(TEXT_MAX), z.string());

const descriptor = z.object({
  mediaType,
  digest: z.custom<Digest>(
    (value) => typeof value === "string" && isDigest(value),
    "must be sha256: and 64 lower-case hex digits",
  ),
  size: z.int("must be a whole number below 2^53").positive("must be greater than 0"),
  annotations: annotations.optional(),
});

const manifestDocument = z.object({
  schemaVersion: z.literal(2),
  mediaType: mediaType.optional(),
  artifactType: z.string().max(TEXT_MAX).optional(),
  config: descriptor,
  layers: z.array(descriptor).max(LAYERS_MAX),
});

const platform = z.object({
  os: z.string().max(TEXT_MAX),
  architecture: z.string().max(TEXT_MAX),
  variant: z.string().max(TEXT_MAX).optional(),
  "os.features": z.array(z.string().max(TEXT_MAX)).max(64).optional(),
});

/** Entries for others may use digests we do not: those are checked when one is chosen. */
const indexEntry = z.object({
  mediaType,
  digest: z.string().max(TEXT_MAX),
  artifactType: z.string().max(TEXT_MAX).optional(),
  platform: platform.optional(),
  annotations: annotations.optional(),
});

const indexDocument = z.object({
  schemaVersion: z.literal(2),
  mediaType: mediaType.optional(),
  manifests: z.array(indexEntry).max(INDEX_ENTRIES_MAX),
});

export type Descriptor = z.infer<typeof descriptor>;
export type Manifest = z.infer<typeof manifestDocument>;
export type IndexEntry = z.infer<typeof indexEntry>;
export type Index = z.infer<typeof indexDocument>;
export type Document =
  | { readonly kind: "manifest"; readonly manifest: Manifest }
  | { readonly kind: "index"; readonly index: Index };

export interface DocumentSource {
  readonly bytes: Uint8Array;
  /** As the registry's Content-Type or the referring descriptor says; the document's own wins. */
  readonly mediaType: string;
  /** Names the document in faults. */
  readonly where: string;
}

/** Faults: manifest_invalid (not JSON, a field wrong), image_unsupported (another kind of document). */
export function parseDocument(source: DocumentSource): Document {
  const value = parseJson(source);
  const kind = documentKind(value, source);
  return kind === "manifest"
    ? { kind, manifest: check(manifestDocument, value, source.where) }
    : { kind, index: check(indexDocument, value, source.where) };
}

function parseJson({ bytes, where }: DocumentSource): Record<string, unknown> {
  if (bytes.length > MANIFEST_BYTES_MAX) {
    throw invalid(where, `it has ${bytes.length} bytes, more than ${MANIFEST_BYTES_MAX}`);
  }
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new DaemonError(
      { code: "manifest_invalid", where, detail: "it is not JSON" },
      { cause: error },
    );
  }
  if (!isRecord(value)) throw invalid(where, "it is not a JSON object");
  return value;
}

/**
 * A document that can be read both as manifest and as index is refused: two readers could see
 * two images under one digest.
 */
function documentKind(
  value: Record<string, unknown>,
  { mediaType: given, where }: DocumentSource,
): Document["kind"] {
  const hasLayers = Object.hasOwn(value, "layers") || Object.hasOwn(value, "config");
  const hasManifests = Object.hasOwn(value, "manifests");
  if (hasLayers && hasManifests) throw invalid(where, "it is both a manifest and an index");
  const own = value["mediaType"];
  const declared = typeof own === "string" ? own : (given.split(";")[0] ?? "").trim();
  if (isManifestType(declared)) return "manifest";
  if (isIndexType(declared)) return "index";
  if (typeof own === "string") {
    throw new DaemonError({
      code: "image_unsupported",
      where,
      detail: `it is a document of type ${own.slice(0, 255)}, not an image manifest or index`,
    });
  }
  if (value["schemaVersion"] === 1) {
    throw new DaemonError({
      code: "image_unsupported",
      where,
      detail: "it is a Docker manifest of schema 1; push the image again with a current tool",
    });
  }
  return hasManifests ? "index" : "manifest";
}

function check<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const field = issue === undefined ? "" : issue.path.map(String).join(".");
  throw invalid(where, `${field === "" ? "it" : field}: ${issue?.message ?? "is invalid"}`);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function invalid(where: string, detail: string): DaemonError {
  return new DaemonError({ code: "manifest_invalid", where, detail });
}

// SPDX-License-Identifier: Apache-2.0
// From a manifest to the blobs that make the image, or a sentence that says why this image is not
// served. Served: one raw EROFS layer, alone or after layers of role `device` (EROFS image layer
// format, sections 2.4 and 3.8), and Nydus images (plan-rafs.ts). Standalone chunk indexes are
// passed over, as section 3.4.3 asks of a consumer that does not use them.

import { DaemonError } from "../../errors.ts";
import type { Digest } from "../../units.ts";
import type { EROFSLayer, EROFSPlan, ImagePlan } from "../image.ts";
import type { Descriptor, Manifest } from "./manifest.ts";
import {
  CHUNK_INDEX_TARGET_ANNOTATION,
  EROFS_CHUNK_INDEX,
  ROLE_ANNOTATION,
  SERVED_TEXT,
  describeMediaType,
  isErofsType,
  isImageConfig,
  isNydus,
  isPlainType,
} from "./media-types.ts";
import { hasRAFSBootstrap, planRAFS } from "./plan-rafs.ts";

export interface PlanOptions {
  /** Digest of the manifest's bytes. */
  readonly manifestDigest: Digest;
  /** Names the manifest in faults. */
  readonly where: string;
}

type Role = "mountable" | "device" | "overlay-data";

interface Layer {
  readonly descriptor: Descriptor;
  /** Index in `layers` of the manifest. */
  readonly position: number;
}

/** Faults: image_unsupported (fine, but not served), manifest_invalid (against the specification). */
export function planImage(manifest: Manifest, options: PlanOptions): ImagePlan {
  const { where } = options;
  const { config } = manifest;
  if (!isImageConfig(config.mediaType)) {
    const kind = manifest.artifactType ?? config.mediaType;
    throw unsupported(where, `it is an artifact of type ${kind}, not a container image`);
  }
  return hasRAFSBootstrap(manifest) ? planRAFS(manifest, options) : planErofs(manifest, options);
}

function planErofs(manifest: Manifest, { manifestDigest, where }: PlanOptions): EROFSPlan {
  const layers = withoutChunkIndexes(manifest.layers, where);
  if (layers.some(({ descriptor }) => isNydus(descriptor))) {
    throw unsupported(where, "it has Nydus layers, and the last is not their bootstrap");
  }
  const last = layers.at(-1);
  if (last === undefined) throw unsupported(where, "it has no layers");
  const roles = layers.map((layer) => roleOf(layer, where));
  if (roles.at(-1) !== "mountable") {
    throw invalid(where, `layers.${last.position}: the last layer must be a mountable EROFS layer`);
  }
  const before = layers.slice(0, -1);
  checkBefore(before, roles, where);
  checkDistinct(layers, where);
  return {
    kind: "erofs",
    manifestDigest,
    bootstrap: layerOf(last),
    devices: before.map(layerOf),
  };
}

/** Everything below the last layer must be one of its devices; anything else needs an overlay. */
function checkBefore(layers: readonly Layer[], roles: readonly Role[], where: string): void {
  for (const [index, layer] of layers.entries()) {
    const role = roles[index];
    if (role === "device") continue;
    const detail =
      role === "overlay-data"
        ? `layer ${layer.position} has the role overlay-data, which needs an overlay mount`
        : `it has several EROFS layers, which need an overlay mount; served is one EROFS layer, with its devices`;
    throw unsupported(where, detail);
  }
}

/** One name, one content, one cookie: the kernel refuses a device that is opened twice. */
function checkDistinct(layers: readonly Layer[], where: string): void {
  const seen = new Set<Digest>();
  for (const { descriptor, position } of layers) {
    if (seen.has(descriptor.digest)) {
      throw unsupported(where, `layer ${position} repeats the blob ${descriptor.digest}`);
    }
    seen.add(descriptor.digest);
  }
}

function roleOf({ descriptor, position }: Layer, where: string): Role {
  const { mediaType, annotations = {} } = descriptor;
  const role = Object.hasOwn(annotations, ROLE_ANNOTATION)
    ? annotations[ROLE_ANNOTATION]
    : undefined;
  if (role === "device") {
    if (isPlainType(mediaType)) return "device";
    const what = describeMediaType(mediaType);
    throw unsupported(where, `device layer ${position} is ${what}; devices must be stored raw`);
  }
  if (!isErofsType(mediaType)) {
    throw unsupported(
      where,
      `layer ${position} is ${describeMediaType(mediaType)}; ${SERVED_TEXT}`,
    );
  }
  if (role === undefined || role === "overlay-lower") return "mountable";
  if (role === "overlay-data") return "overlay-data";
  throw unsupported(where, `layer ${position} has the unknown role "${role.slice(0, 64)}"`);
}

function withoutChunkIndexes(layers: readonly Descriptor[], where: string): readonly Layer[] {
  const kept: Layer[] = [];
  for (const [position, descriptor] of layers.entries()) {
    if (descriptor.mediaType !== EROFS_CHUNK_INDEX) {
      kept.push({ descriptor, position });
      continue;
    }
    const previous = layers[position - 1];
    if (previous === undefined || position === layers.length - 1) {
      throw invalid(where, `layers.${position}: a chunk index may not be the first or last layer`);
    }
    const target = descriptor.annotations?.[CHUNK_INDEX_TARGET_ANNOTATION];
    if (target !== undefined && target !== previous.digest) {
      throw invalid(where, `layers.${position}: the chunk index is not for the layer before it`);
    }
  }
  return kept;
}

function layerOf({ descriptor }: Layer): EROFSLayer {
  const { digest, size, mediaType } = descriptor;
  return { digest, size, mediaType };
}

function unsupported(where: string, detail: string): DaemonError {
  return new DaemonError({ code: "image_unsupported", where, detail });
}

function invalid(where: string, detail: string): DaemonError {
  return new DaemonError({ code: "manifest_invalid", where, detail });
}

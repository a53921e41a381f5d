// SPDX-License-Identifier: Apache-2.0
// The media types and annotations erofsd knows, and words for those it refuses.
// Sources: OCI image-spec media-types.md, Docker manifest v2 schema 2, the EROFS image layer
// format specification (draft of 2026) section 2, containerd 2.3 for vnd.erofs.layer.v1,
// nydusify and nydus-snapshotter for Nydus, ocicrypt for encryption.

export const OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json";
export const OCI_INDEX = "application/vnd.oci.image.index.v1+json";
export const DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json";
export const DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json";

/** What a registry may answer to a request for a manifest. */
export const MANIFEST_TYPES: readonly string[] = [
  OCI_INDEX,
  OCI_MANIFEST,
  DOCKER_LIST,
  DOCKER_MANIFEST,
];

export const EROFS = "application/vnd.erofs";
export const EROFS_LAYER_V1 = "application/vnd.erofs.layer.v1";
export const EROFS_CHUNK_INDEX = "application/vnd.erofs.chunk-index.v1";

const EROFS_TYPES: readonly string[] = [EROFS, EROFS_LAYER_V1];

/** Types whose stored bytes are the byte stream itself: what role `device` may carry here. */
const PLAIN_TYPES: readonly string[] = [
  ...EROFS_TYPES,
  "application/octet-stream",
  "application/vnd.oci.image.layer.v1.tar",
  "application/vnd.docker.image.rootfs.diff.tar",
];

const IMAGE_CONFIGS: readonly string[] = [
  "application/vnd.oci.image.config.v1+json",
  "application/vnd.docker.container.image.v1+json",
  "application/vnd.nydus.image.config.v1+json",
];

export const ROLE_ANNOTATION = "org.erofs.role";
export const CHUNK_INDEX_TARGET_ANNOTATION = "org.erofs.chunk-index.target";

export const NYDUS_BLOB_TYPE = "application/vnd.oci.image.layer.nydus.blob.v1";
export const NYDUS_BOOTSTRAP_ANNOTATION = "containerd.io/snapshot/nydus-bootstrap";
export const NYDUS_BLOB_ANNOTATION = "containerd.io/snapshot/nydus-blob";
export const NYDUS_REF_ANNOTATION = "containerd.io/snapshot/nydus-ref";
export const NYDUS_FS_VERSION_ANNOTATION = "containerd.io/snapshot/nydus-fs-version";
export const NYDUS_EMPTY_LAYER_ANNOTATION = "containerd.io/snapshot/nydus-empty-layer";
/** On the entry of an index; as artifact type, or, in Docker's form, as OS feature. */
export const NYDUS_ARTIFACT_TYPE = "application/vnd.nydus.image.manifest.v1+json";
export const NYDUS_OS_FEATURE = "nydus.remoteimage.v1";

const NYDUS_ENCRYPTED_ANNOTATION = "containerd.io/snapshot/nydus-encrypted-blob";
const OCICRYPT_PREFIX = "org.opencontainers.image.enc.";

/** Said in every refusal, so that the reader knows what would have worked. */
export const SERVED_TEXT = `served are ${EROFS}, ${EROFS_LAYER_V1} and Nydus images (RAFS v6)`;

export function isManifestType(mediaType: string): boolean {
  return mediaType === OCI_MANIFEST || mediaType === DOCKER_MANIFEST;
}

export function isIndexType(mediaType: string): boolean {
  return mediaType === OCI_INDEX || mediaType === DOCKER_LIST;
}

export function isImageConfig(mediaType: string): boolean {
  return IMAGE_CONFIGS.includes(mediaType);
}

export function isErofsType(mediaType: string): boolean {
  return EROFS_TYPES.includes(mediaType);
}

export function isPlainType(mediaType: string): boolean {
  return PLAIN_TYPES.includes(mediaType);
}

interface AnnotatedLayer {
  readonly mediaType: string;
  readonly annotations?: Readonly<Record<string, string>> | undefined;
}

export function isNydus({ mediaType, annotations = {} }: AnnotatedLayer): boolean {
  return (
    mediaType.includes(".nydus.") ||
    Object.hasOwn(annotations, NYDUS_BOOTSTRAP_ANNOTATION) ||
    Object.hasOwn(annotations, NYDUS_BLOB_ANNOTATION)
  );
}

/** The annotation or media type that says a layer is encrypted. */
export function encryptionOf({ mediaType, annotations = {} }: AnnotatedLayer): string | undefined {
  if (mediaType.endsWith("+encrypted")) return mediaType;
  return Object.keys(annotations).find(
    (name) => name === NYDUS_ENCRYPTED_ANNOTATION || name.startsWith(OCICRYPT_PREFIX),
  );
}

/** What a media type that is not served is, in words. */
export function describeMediaType(mediaType: string): string {
  if (EROFS_TYPES.some((type) => mediaType === `${type}+zstd`)) {
    return `a zstd-compressed EROFS layer (${mediaType})`;
  }
  if (/\btar(?:\.|\+|$)/.test(mediaType)) return `a tar layer (${mediaType})`;
  return `of media type ${mediaType}`;
}

// SPDX-License-Identifier: Apache-2.0
// Source over an OCI image-layout directory (OCI image-spec, image-layout.md): oci-layout,
// index.json, blobs/sha256/<hex>. Reads are asynchronous and in pieces; nothing outside the
// directory is ever opened, not even through a symbolic link.

import { constants } from "node:fs";
import { type FileHandle, realpath } from "node:fs/promises";
import { createHash } from "node:crypto";
import { setMaxListeners } from "node:events";
import { join, sep } from "node:path";
import { DaemonError, asDaemonError } from "../errors.ts";
import { type Index, MANIFEST_BYTES_MAX, parseDocument } from "../image/oci/manifest.ts";
import { OCI_INDEX } from "../image/oci/media-types.ts";
import type { Clock } from "../platform/clock.ts";
import { type Digest, type Extent, isDigest } from "../units.ts";
import { isMissing, openRegular, readPieces, storedSize, withBlobFile } from "./blob-file.ts";
import { withBounds } from "./deadline.ts";
import type { BlobLocation, FetchedManifest, FetchOptions, Origin, Source } from "./source.ts";

const REF_NAME_ANNOTATION = "org.opencontainers.image.ref.name";
const TAGS_SHOWN_MAX = 16;

export function createLayoutSource(parts: { readonly clock: Clock }): Source {
  return new LayoutSource(parts.clock);
}

class LayoutSource implements Source {
  readonly #clock: Clock;
  readonly #closing = new AbortController();

  constructor(clock: Clock) {
    // Every fetch listens to it; how many there are at once is the caller's to bound.
    setMaxListeners(0, this.#closing.signal);
    this.#clock = clock;
  }

  /** `wanted` is a tag, a digest, or empty for the layout's only manifest. */
  fetchManifest(origin: Origin, wanted: string, options: FetchOptions): Promise<FetchedManifest> {
    const what = `manifest ${wanted} of ${origin.repository}`;
    return this.#bounded(what, options, async () => {
      const root = origin.repository;
      const index = await readIndex(root);
      const entry = isDigest(wanted)
        ? { digest: wanted, mediaType: mediaTypeOf(index, wanted) }
        : chooseEntry(index, root, wanted);
      const bytes = await readDocument(root, blobPath(entry.digest)).catch((error: unknown) => {
        throw isMissing(error) ? notFound(root, wanted) : error;
      });
      const actual = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
      if (actual !== entry.digest) {
        const where = join(root, blobPath(entry.digest));
        throw new DaemonError({ code: "digest_mismatch", where, expected: entry.digest, actual });
      }
      return { digest: entry.digest, mediaType: entry.mediaType, bytes };
    });
  }

  readRange(
    blob: BlobLocation,
    extent: Extent,
    onPiece: (piece: Uint8Array) => void,
    options: FetchOptions,
  ): Promise<void> {
    return this.#bounded(`blob ${blob.digest}`, options, (signal) =>
      withBlobFile(blob, openBlob, (file) => readPieces({ file, blob, extent, signal, onPiece })),
    );
  }

  blobSize(blob: BlobLocation, options: FetchOptions): Promise<number> {
    return this.#bounded(`size of blob ${blob.digest}`, options, () =>
      withBlobFile(blob, openBlob, (file) => storedSize(file, blob)),
    );
  }

  close(): Promise<void> {
    this.#closing.abort(new DaemonError({ code: "stopping" }));
    return Promise.resolve();
  }

  #bounded<T>(
    what: string,
    { deadlineMs, signal }: FetchOptions,
    work: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const signals = [signal, this.#closing.signal];
    return withBounds({ clock: this.#clock, deadlineMs, signals, what }, work);
  }
}

function openBlob({ origin, digest }: BlobLocation): Promise<FileHandle> {
  return openInside(origin.repository, blobPath(digest));
}

async function readIndex(root: string): Promise<Index> {
  const marker = await readDocument(root, "oci-layout").catch((error: unknown) => {
    throw isMissing(error) ? failed(root, "it has no oci-layout file", error) : error;
  });
  if (!/"imageLayoutVersion"\s*:\s*"1\.[0-9.]+"/.test(Buffer.from(marker).toString("latin1"))) {
    throw failed(root, "its oci-layout is not of version 1");
  }
  const bytes = await readDocument(root, "index.json").catch((error: unknown) => {
    throw isMissing(error) ? failed(root, "it has no index.json", error) : error;
  });
  const where = join(root, "index.json");
  const document = parseDocument({ bytes, mediaType: OCI_INDEX, where });
  if (document.kind !== "index") throw failed(root, "its index.json is not an index");
  return document.index;
}

function chooseEntry(
  index: Index,
  root: string,
  tag: string,
): { digest: Digest; mediaType: string } {
  const { manifests } = index;
  const found =
    tag === "" ? manifests : manifests.filter((entry) => tagOf(entry.annotations) === tag);
  const [entry] = found;
  if (entry === undefined) {
    throw tag === "" ? failed(root, "it holds no manifest") : notFound(root, tag);
  }
  if (found.length > 1) {
    const tags = manifests.flatMap(({ annotations }) => tagOf(annotations) ?? []);
    const shown = tags.slice(0, TAGS_SHOWN_MAX).join(", ");
    const hint = shown === "" ? "none has a tag; name a digest" : `write one of its tags: ${shown}`;
    throw failed(root, `it holds ${found.length} manifests${tag === "" ? "" : ` ${tag}`}; ${hint}`);
  }
  if (!isDigest(entry.digest)) throw failed(root, `its manifest ${entry.digest} is not a sha256`);
  return { digest: entry.digest, mediaType: entry.mediaType };
}

/** Empty when index.json does not list it: then the document says itself what it is. */
function mediaTypeOf(index: Index, digest: Digest): string {
  return index.manifests.find((entry) => entry.digest === digest)?.mediaType ?? "";
}

function tagOf(annotations: Readonly<Record<string, string>> | undefined): string | undefined {
  return annotations !== undefined && Object.hasOwn(annotations, REF_NAME_ANNOTATION)
    ? annotations[REF_NAME_ANNOTATION]
    : undefined;
}

/** The whole of a small file. Rejects with the system's error when it is missing. */
async function readDocument(root: string, path: string): Promise<Uint8Array> {
  const file = await openInside(root, path);
  try {
    const { size } = await file.stat();
    if (size > MANIFEST_BYTES_MAX) throw failed(join(root, path), `it has ${size} bytes`);
    const bytes = new Uint8Array(size);
    let filled = 0;
    while (filled < size) {
      const { bytesRead } = await file.read(bytes, filled, size - filled, filled);
      if (bytesRead === 0) throw failed(join(root, path), "it shrank while it was read");
      filled += bytesRead;
    }
    return bytes;
  } finally {
    await file.close();
  }
}

/** Opens a regular file that lies, links resolved, below the layout's directory. */
async function openInside(root: string, path: string): Promise<FileHandle> {
  try {
    const realRoot = await realpath(root);
    const real = await realpath(join(realRoot, path));
    const prefix = realRoot.endsWith(sep) ? realRoot : realRoot + sep;
    if (!real.startsWith(prefix)) throw failed(join(root, path), "it leads out of the directory");
    return await openRegular(real, constants.O_NOFOLLOW);
  } catch (error) {
    if (isMissing(error)) throw error;
    throw asDaemonError(error, (detail) => ({
      code: "layout_failed",
      path: join(root, path),
      detail,
    }));
  }
}

function blobPath(digest: Digest): string {
  return join("blobs", "sha256", digest.slice("sha256:".length));
}

function failed(path: string, detail: string, cause?: unknown): DaemonError {
  return new DaemonError({ code: "layout_failed", path, detail }, { cause });
}

function notFound(root: string, wanted: string): DaemonError {
  return new DaemonError({ code: "manifest_not_found", host: "oci", repository: root, wanted });
}

// SPDX-License-Identifier: Apache-2.0
// Where the files of a known image lie, for people who ask what its bytes are. Its metadata is
// read beside what is served: a Nydus bootstrap from the state, that of a raw layer from its
// source, as something that nobody waits for.

import { open } from "node:fs/promises";
import { join } from "node:path";
import { LRUCache } from "lru-cache";
import { parseDeviceTable } from "../image/erofs/device-table.ts";
import { PACKED_PATH, storedExtents } from "../image/erofs/compressed.ts";
import { type NamedFile, namedFiles } from "../image/erofs/file-paths.ts";
import { type DeviceExtent, type ErofsFile, ErofsReader } from "../image/erofs/inode.ts";
import { metadataPlaces } from "../image/erofs/metadata.ts";
import { SUPERBLOCK_HEAD_BYTES, parseSuperblock } from "../image/erofs/superblock.ts";
import { BOOTSTRAP_HEAD_BYTES, parseBootstrapHead } from "../image/rafs/bootstrap.ts";
import { type Clock, nextTurn } from "../platform/clock.ts";
import type { Source } from "../source/source.ts";
import type { Content, StreamRecord } from "../state/bindings.ts";
import { type Extent, KIB, alignDown } from "../units.ts";

/** Of a raw layer's metadata: what one request brings, and how many of them are kept. */
const PIECE_BYTES = 256 * KIB;
const PIECES_MAX = 32;
const PIECE_TIMEOUT_MS = 30_000;

export interface ImageFile {
  readonly path: string;
  /** Device 0 is the primary one. Nothing for what has no blocks of its own. */
  readonly extents: readonly DeviceExtent[];
}

export interface ImageFilesParts {
  readonly source: Pick<Source, "readRange">;
  readonly clock: Clock;
  /** Of Nydus bootstraps, by the digits of their digests. */
  readonly bootstrapDirectory: string;
}

/** Each file that has blocks of its own. Faults: image_invalid, image_unsupported, those of the source. */
export async function* imageFiles(
  parts: ImageFilesParts,
  { stream, reference: where }: Pick<Content, "stream" | "reference">,
  signal: AbortSignal,
): AsyncGenerator<ImageFile, void> {
  const isRafs = stream.format === "bootstrap";
  const opened = isRafs
    ? await openBootstrap(parts, stream, where)
    : await openRaw(parts, stream, { where, signal });
  try {
    const reader = new ErofsReader({ ...opened.file, pause: nextTurn });
    for await (const { path, nid } of withPacked(reader, opened)) {
      if (signal.aborted) return;
      const extents: DeviceExtent[] = [];
      for await (const extent of storedExtents(reader, nid)) extents.push(extent);
      if (extents.length > 0) yield { path, extents };
    }
  } finally {
    await opened.close();
  }
}

async function* withPacked(
  reader: ErofsReader,
  { rootNid, packedNid }: Opened,
): AsyncGenerator<NamedFile, void> {
  yield* namedFiles(reader, rootNid);
  if (packedNid !== undefined) yield { path: PACKED_PATH, nid: packedNid };
}

interface Opened {
  readonly file: ErofsFile;
  readonly rootNid: number;
  readonly packedNid?: number | undefined;
  close(): Promise<void>;
}

async function openBootstrap(
  { bootstrapDirectory }: ImageFilesParts,
  { digest, size: sizeBytes }: StreamRecord,
  where: string,
): Promise<Opened> {
  const handle = await open(join(bootstrapDirectory, digest.slice("sha256:".length)), "r");
  const readAt = async (offset: number, length: number): Promise<Uint8Array> => {
    const { bytesRead, buffer } = await handle.read(new Uint8Array(length), 0, length, offset);
    return buffer.subarray(0, bytesRead);
  };
  try {
    const head = await readAt(0, Math.min(BOOTSTRAP_HEAD_BYTES, sizeBytes));
    const { metaBlock, deviceBlocks, rootNid } = parseBootstrapHead(head, sizeBytes, where);
    const file = { readAt, sizeBytes, metaBlock, deviceBlocks, where };
    return { file, rootNid, close: () => handle.close() };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

async function openRaw(
  { source, clock }: ImageFilesParts,
  record: StreamRecord,
  { where, signal }: { readonly where: string; readonly signal: AbortSignal },
): Promise<Opened> {
  const { size: sizeBytes } = record;
  const pieces = new LRUCache<number, Uint8Array>({ max: PIECES_MAX });
  const fetchPiece = async (extent: Extent): Promise<Uint8Array> => {
    const bytes = new Uint8Array(extent.length);
    let at = 0;
    const deadlineMs = clock.nowMs() + PIECE_TIMEOUT_MS;
    const take = (piece: Uint8Array): void => {
      bytes.set(piece, at);
      at += piece.length;
    };
    await source.readRange(record, extent, take, { signal, deadlineMs, urgency: "prefetch" });
    return bytes;
  };
  const readAt = async (offset: number, length: number): Promise<Uint8Array> => {
    const start = alignDown(offset, PIECE_BYTES);
    const known = pieces.get(start);
    const pieceLength = Math.min(PIECE_BYTES, sizeBytes - start);
    const piece = known ?? (await fetchPiece({ offset: start, length: pieceLength }));
    pieces.set(start, piece);
    const from = offset - start;
    if (from + length <= piece.length) return piece.subarray(from, from + length);
    const rest = await readAt(start + PIECE_BYTES, length - (piece.length - from));
    return Buffer.concat([piece.subarray(from), rest]);
  };
  const head = await readAt(0, Math.min(SUPERBLOCK_HEAD_BYTES, sizeBytes));
  const superblock = parseSuperblock(head, where);
  const { metaBlock, rootNid, packedNid } = metadataPlaces(head, superblock, where);
  const { deviceTable } = superblock;
  const table =
    deviceTable === undefined
      ? new Uint8Array()
      : await readAt(deviceTable.offset, deviceTable.length);
  const deviceBlocks = parseDeviceTable(table, superblock, where).map(({ blocks }) => blocks);
  const file = { readAt, sizeBytes, metaBlock, deviceBlocks, where };
  return { file, rootNid, packedNid, close: () => Promise.resolve() };
}

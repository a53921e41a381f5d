// SPDX-License-Identifier: Apache-2.0
// Reads a Nydus bootstrap from a file: in pieces, since its chunk table may be 80 MB, and
// everything that is checked in it is checked by image/rafs.

import type { FileHandle } from "node:fs/promises";
import { asDaemonError } from "../../errors.ts";
import { type RafsBlob, parseBlobTable } from "../../image/rafs/blob-table.ts";
import {
  BOOTSTRAP_HEAD_BYTES,
  type RafsBootstrap,
  parseBootstrapHead,
} from "../../image/rafs/bootstrap.ts";
import { type BlobRows, ChunkTableReader } from "../../image/rafs/chunk-table.ts";
import { openRegular } from "../../source/blob-file.ts";
import { type Extent, KIB, extentEnd } from "../../units.ts";

const PIECE_BYTES = 256 * KIB;

export interface ReadBootstrap {
  readonly bootstrap: RafsBootstrap;
  /** In the device table's order. */
  readonly blobs: readonly RafsBlob[];
  /** What the bootstrap vouches for, one for each blob. */
  readonly rows: readonly BlobRows[];
}

/** `where` names the image in faults: image_invalid, image_unsupported. */
export async function readBootstrap(path: string, where: string): Promise<ReadBootstrap> {
  const file = await openRegular(path).catch((error: unknown) => {
    throw asDaemonError(error, (detail) => ({ code: "image_invalid", where, detail }));
  });
  try {
    const { size } = await file.stat();
    const head = await readAt(file, { offset: 0, length: Math.min(size, BOOTSTRAP_HEAD_BYTES) });
    const bootstrap = parseBootstrapHead(head, size, where);
    const blobs = parseBlobTable(await readAt(file, bootstrap.blobTable), bootstrap, where);
    const reader = new ChunkTableReader(bootstrap, blobs, where);
    await readPieces(file, bootstrap.chunkTable, (piece) => {
      reader.push(piece);
    });
    return { bootstrap, blobs, rows: reader.finish() };
  } finally {
    await file.close();
  }
}

async function readAt(file: FileHandle, extent: Extent): Promise<Uint8Array> {
  const bytes = new Uint8Array(extent.length);
  let at = 0;
  await readPieces(file, extent, (piece) => {
    bytes.set(piece, at);
    at += piece.length;
  });
  return bytes;
}

/** A file that is shorter than `extent` gives fewer bytes; the parsers say what that means. */
async function readPieces(
  file: FileHandle,
  extent: Extent,
  onPiece: (piece: Uint8Array) => void,
): Promise<void> {
  const buffer = Buffer.allocUnsafe(Math.min(PIECE_BYTES, extent.length));
  let at = extent.offset;
  while (at < extentEnd(extent)) {
    const length = Math.min(buffer.length, extentEnd(extent) - at);
    const { bytesRead } = await file.read(buffer, 0, length, at);
    if (bytesRead === 0) return;
    onPiece(buffer.subarray(0, bytesRead));
    at += bytesRead;
  }
}

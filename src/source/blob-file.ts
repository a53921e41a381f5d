// SPDX-License-Identifier: Apache-2.0
// A blob that is a file: what the sources over directories share. Only regular files are read,
// asynchronously and in bounded pieces; a file that is not as long as it should be is refused.

import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { DaemonError, invariant } from "../errors.ts";
import { cancelledBy } from "../platform/clock.ts";
import { type Extent, KIB, extentEnd } from "../units.ts";
import { type BlobLocation, formatOrigin, sizeContradiction } from "./source.ts";

const PIECE_BYTES_MAX = 256 * KIB;

/** Borrows the file of a blob. Fault: blob_not_found when `openFile` says ENOENT. */
export async function withBlobFile<T>(
  blob: BlobLocation,
  openFile: (blob: BlobLocation) => Promise<FileHandle>,
  use: (file: FileHandle) => Promise<T>,
): Promise<T> {
  const file = await openFile(blob).catch((error: unknown) => {
    throw isMissing(error) ? blobNotFound(blob) : error;
  });
  try {
    return await use(file);
  } finally {
    await file.close();
  }
}

/** Opens a regular file for reading; anything else, and ENOENT, rejects with an error. */
export async function openRegular(path: string, flags = 0): Promise<FileHandle> {
  // Not blocking: opening a FIFO must not wait for a writer.
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK | flags);
  try {
    if (!(await file.stat()).isFile()) throw new Error("it is not a regular file");
    return file;
  } catch (error) {
    await file.close();
    throw error;
  }
}

export interface PieceRead {
  readonly file: FileHandle;
  readonly blob: BlobLocation;
  readonly extent: Extent;
  readonly signal: AbortSignal;
  /** Each piece is valid only during the call. */
  readonly onPiece: (piece: Uint8Array) => void;
}

/** Fault: blob_truncated. */
export async function readPieces({
  file,
  blob,
  extent,
  signal,
  onPiece,
}: PieceRead): Promise<void> {
  const end = extentEnd(extent);
  invariant(extent.offset >= 0 && end <= (blob.size ?? end), "extent lies within its blob");
  const size = await storedSize(file, blob);
  if (size < end) throw truncated(blob, size);
  const buffer = Buffer.allocUnsafe(Math.min(extent.length, PIECE_BYTES_MAX));
  let offset = extent.offset;
  while (offset < end) {
    const length = Math.min(end - offset, buffer.length);
    const { bytesRead } = await file.read(buffer, 0, length, offset);
    if (signal.aborted) throw cancelledBy(signal);
    if (bytesRead === 0) throw truncated(blob, offset);
    onPiece(buffer.subarray(0, bytesRead));
    offset += bytesRead;
  }
}

/** In bytes. Fault: blob_truncated when the descriptor says another size. */
export async function storedSize(file: FileHandle, blob: BlobLocation): Promise<number> {
  const { size } = await file.stat();
  if (blob.size !== undefined && size !== blob.size) throw truncated(blob, size);
  return size;
}

export function isMissing(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ENOENT";
}

function blobNotFound({ origin, digest }: BlobLocation): DaemonError {
  const { host, repository } = origin;
  return new DaemonError({ code: "blob_not_found", host, repository, digest });
}

function truncated(blob: BlobLocation, storedBytes: number): DaemonError {
  return new DaemonError({
    code: "blob_truncated",
    where: formatOrigin(blob.origin),
    digest: blob.digest,
    detail: sizeContradiction(blob, storedBytes),
  });
}

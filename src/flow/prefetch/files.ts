// SPDX-License-Identifier: Apache-2.0
// What the prefetch table of a bootstrap names, as parts of the image's devices: read piece by
// piece, since a table may name the root of a million files. The file is open only while it is
// read, so a job that rests holds nothing.

import { type FileHandle, open } from "node:fs/promises";
import { setImmediate } from "node:timers/promises";
import { asDaemonError } from "../../errors.ts";
import { type DeviceExtent, ErofsReader, extentsOf, merged } from "../../image/erofs/inode.ts";
import { filesUnder } from "../../image/erofs/tree.ts";
import {
  BOOTSTRAP_HEAD_BYTES,
  type RafsBootstrap,
  parseBootstrapHead,
} from "../../image/rafs/bootstrap.ts";
import { parsePrefetchTable } from "../../image/rafs/prefetch-table.ts";
import { KIB, MIB, extentEnd } from "../../units.ts";

/** Files that lie side by side are fetched together, but the first must not wait for all. */
const TOGETHER_MAX = 4 * MIB;
const TABLE_PIECE_BYTES = 4 * KIB;

export type ReadAt = (offset: number, length: number) => Promise<Uint8Array>;

/** In the table's order; device 0 is the bootstrap. Fault: image_invalid. */
export async function* prefetchTableExtents(path: string): AsyncGenerator<DeviceExtent, void> {
  const readAt: ReadAt = (offset, length) => readFileAt(path, offset, length);
  const head = await readAt(0, BOOTSTRAP_HEAD_BYTES);
  const sizeBytes = await withFile(path, async (file) => (await file.stat()).size);
  yield* tableExtents(parseBootstrapHead(head, sizeBytes, path), readAt, path);
}

export async function* tableExtents(
  bootstrap: RafsBootstrap,
  readAt: ReadAt,
  where: string,
): AsyncGenerator<DeviceExtent, void> {
  const { sizeBytes, metaBlock, deviceBlocks } = bootstrap;
  const file = { readAt, sizeBytes, metaBlock, deviceBlocks, where };
  const reader = new ErofsReader({ ...file, pause: () => setImmediate() });
  yield* merged(fileExtents(bootstrap, reader), TOGETHER_MAX);
}

async function* fileExtents(
  { prefetchTable }: RafsBootstrap,
  reader: ErofsReader,
): AsyncGenerator<DeviceExtent, void> {
  const { where } = reader.file;
  const seen = new Set<number>();
  const end = extentEnd(prefetchTable);
  for (let at = prefetchTable.offset; at < end; at += TABLE_PIECE_BYTES) {
    const length = Math.min(TABLE_PIECE_BYTES, end - at);
    const bytes = await reader.bytes(at, length, "its prefetch table");
    for (const nid of parsePrefetchTable(bytes, where)) {
      for await (const file of filesUnder(reader, nid, seen)) {
        for await (const extent of extentsOf(reader, file)) {
          if (extent.device > 0) yield extent;
        }
      }
    }
  }
}

/** Fewer bytes when the file ends before. */
export function readFileAt(path: string, offset: number, length: number): Promise<Uint8Array> {
  return withFile(path, async (file) => {
    const bytes = new Uint8Array(length);
    let at = 0;
    while (at < length) {
      const { bytesRead } = await file.read(bytes, at, length - at, offset + at);
      if (bytesRead === 0) break;
      at += bytesRead;
    }
    return bytes.subarray(0, at);
  });
}

async function withFile<T>(path: string, use: (file: FileHandle) => Promise<T>): Promise<T> {
  const file = await open(path, "r").catch((error: unknown) => {
    throw asDaemonError(error, (detail) => ({ code: "image_invalid", where: path, detail }));
  });
  try {
    return await use(file);
  } finally {
    await file.close();
  }
}

// SPDX-License-Identifier: Apache-2.0
// A whole Nydus RAFS v6 image of one blob, of any size, as files: chunks of zstd with blake3
// digests, chunk infos behind the data, a bootstrap that vouches for them. Its tree is an empty
// directory: who reads it reads the blob's device. Free of test libraries. Written from the
// format's description, not from the parsers.

import { blake3 } from "@napi-rs/blake-hash";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createWriteStream } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { gzipSync } from "node:zlib";
import { pack } from "tar-stream";
import { BLOCK_BYTES, alignUp } from "../../src/units.ts";
import { zstdFrame } from "../unit/platform/compress.ts";

const MAGIC = 0xb10bb10b;
const EROFS_MAGIC = 0xe0f5e1e2;
const FEATURES = 0x40000001;
const ROW_BYTES = 80;
const INFO_BYTES = 16;
const ZSTD = 3;
const SUPERBLOCK = 1024;
const EXTENDED = 1152;
const SLOT = 1408;
const [ROOT_BLOCK, BLOB_TABLE_BLOCK, CHUNK_TABLE_BLOCK] = [1, 2, 3];

interface Chunk {
  readonly digest: Uint8Array;
  readonly storedOffset: number;
  readonly storedBytes: number;
  readonly bytes: number;
}

export interface WrittenRafs {
  readonly blobPath: string;
  /** A tar.gz of the bootstrap and of the blob's chunk infos. */
  readonly bootstrapLayerPath: string;
  /** 64 hex digits: the device's cookie key. */
  readonly blobId: string;
  /** Of the device, and of the stored chunks. */
  readonly sizeBytes: number;
  readonly dataBytes: number;
}

/** Each of `contents` is a chunk: `chunkBytes` of them, the last one at most so many. */
export async function writeRafsImage(
  directory: string,
  contents: Iterable<Uint8Array>,
  chunkBytes: number,
): Promise<WrittenRafs> {
  const blobPath = join(directory, "blob");
  const file = createWriteStream(blobPath);
  const hash = createHash("sha256");
  const append = async (bytes: Uint8Array): Promise<void> => {
    hash.update(bytes);
    if (!file.write(bytes)) await once(file, "drain");
  };
  const chunks: Chunk[] = [];
  let dataBytes = 0;
  for (const content of contents) {
    const frame = zstdFrame(content);
    const stored = frame.length < content.length ? frame : content;
    const digest = blake3(Buffer.from(content));
    const [bytes, storedBytes] = [content.length, stored.length];
    chunks.push({ digest, storedOffset: dataBytes, storedBytes, bytes });
    // A copy: the generator may use its buffer again before this is written.
    await append(Uint8Array.from(stored));
    dataBytes += storedBytes;
  }
  const infos = chunkInfos(chunks, chunkBytes);
  const header = infoHeader(chunks.length, dataBytes);
  await append(infos);
  await append(header);
  file.end();
  await once(file, "close");
  const blobId = hash.digest("hex");
  const sizeBytes = chunks.reduce((sum, { bytes }) => sum + alignUp(bytes, BLOCK_BYTES), 0);
  const bootstrap = bootstrapOf({ chunks, chunkBytes, blobId, sizeBytes, dataBytes });
  const bootstrapLayerPath = join(directory, "bootstrap.tar.gz");
  const padding = Buffer.alloc(alignUp(infos.length, BLOCK_BYTES) - infos.length);
  const files = new Map([
    ["image/image.boot", bootstrap],
    [`image/${blobId}.blob.meta`, Buffer.concat([infos, padding, header])],
  ]);
  await writeFile(bootstrapLayerPath, await tarGz(files));
  return { blobPath, bootstrapLayerPath, blobId, sizeBytes, dataBytes };
}

function chunkInfos(chunks: readonly Chunk[], chunkBytes: number): Buffer {
  const infos = Buffer.alloc(chunks.length * INFO_BYTES);
  chunks.forEach(({ storedOffset, storedBytes, bytes }, index) => {
    const [size, stored] = [BigInt(bytes - 1), BigInt(storedBytes - 1)];
    const device = BigInt(index * chunkBytes) | ((size >> 20n) << 8n);
    infos.writeBigUInt64LE(((size & 0xfffffn) << 44n) | device, index * INFO_BYTES);
    const place = BigInt(storedOffset) | ((stored >> 20n) << 40n);
    infos.writeBigUInt64LE(((stored & 0xfffffn) << 44n) | place, index * INFO_BYTES + 8);
  });
  return infos;
}

function infoHeader(count: number, dataBytes: number): Buffer {
  const header = Buffer.alloc(BLOCK_BYTES);
  const infoBytes = count * INFO_BYTES;
  header.writeUInt32LE(MAGIC, 0);
  header.writeUInt32LE(FEATURES, 4);
  header.writeUInt32LE(count, 12);
  header.writeBigUInt64LE(BigInt(dataBytes), 16);
  header.writeBigUInt64LE(BigInt(infoBytes), 24);
  header.writeBigUInt64LE(BigInt(infoBytes), 32);
  header.writeUInt32LE(MAGIC, BLOCK_BYTES - 4);
  return header;
}

interface BootstrapParts {
  readonly chunks: readonly Chunk[];
  readonly chunkBytes: number;
  readonly blobId: string;
  readonly sizeBytes: number;
  readonly dataBytes: number;
}

function bootstrapOf(parts: BootstrapParts): Buffer {
  const { chunks, chunkBytes, blobId, sizeBytes } = parts;
  const tableBytes = chunks.length * ROW_BYTES;
  const tableAt = CHUNK_TABLE_BLOCK * BLOCK_BYTES;
  const bytes = Buffer.alloc(tableAt + alignUp(tableBytes, BLOCK_BYTES));
  const blocks = sizeBytes / BLOCK_BYTES;
  bytes.writeUInt32LE(EROFS_MAGIC, SUPERBLOCK);
  bytes.writeUInt32LE(0x40000000, SUPERBLOCK + 8);
  bytes.writeUInt8(12, SUPERBLOCK + 12);
  bytes.writeBigUInt64LE(1n, SUPERBLOCK + 16);
  bytes.writeUInt32LE(blocks, SUPERBLOCK + 36);
  bytes.writeUInt32LE(ROOT_BLOCK, SUPERBLOCK + 40);
  bytes.writeUInt32LE(0xc, SUPERBLOCK + 80);
  bytes.writeUInt16LE(1, SUPERBLOCK + 86);
  bytes.writeUInt16LE(SLOT / 128, SUPERBLOCK + 88);
  // zstd, blake3, owners as they are, not encrypted
  bytes.writeUInt32LE(0x80 | 0x4 | 0x10 | 0x1000000, EXTENDED);
  bytes.writeBigUInt64LE(BigInt(BLOB_TABLE_BLOCK * BLOCK_BYTES), EXTENDED + 8);
  bytes.writeUInt32LE(256, EXTENDED + 16);
  bytes.writeUInt32LE(chunkBytes, EXTENDED + 20);
  bytes.writeBigUInt64LE(BigInt(tableAt), EXTENDED + 24);
  bytes.writeBigUInt64LE(BigInt(tableBytes), EXTENDED + 32);
  bytes.write(blobId, SLOT, "latin1");
  bytes.writeUInt32LE(blocks, SLOT + 64);
  // An empty directory: a compact inode, flat, of mode 0755.
  bytes.writeUInt16LE(0o040755, ROOT_BLOCK * BLOCK_BYTES + 4);
  bytes.writeUInt16LE(2, ROOT_BLOCK * BLOCK_BYTES + 6);
  writeBlobEntry(bytes.subarray(BLOB_TABLE_BLOCK * BLOCK_BYTES), parts);
  writeRows(bytes.subarray(tableAt), parts);
  return bytes;
}

function writeBlobEntry(entry: Buffer, parts: BootstrapParts): void {
  const { chunks, chunkBytes, blobId, sizeBytes, dataBytes } = parts;
  const infoBytes = chunks.length * INFO_BYTES;
  entry.write(blobId, 0, "latin1");
  entry.writeUInt32LE(chunkBytes, 68);
  entry.writeUInt32LE(chunks.length, 72);
  entry.writeUInt32LE(ZSTD, 76);
  entry.writeUInt32LE(FEATURES, 84);
  entry.writeBigUInt64LE(BigInt(dataBytes), 88);
  entry.writeBigUInt64LE(BigInt(sizeBytes), 96);
  entry.writeBigUInt64LE(BigInt(dataBytes), 112);
  entry.writeBigUInt64LE(BigInt(infoBytes), 120);
  entry.writeBigUInt64LE(BigInt(infoBytes), 128);
}

/** In the order of digests. */
function writeRows(table: Buffer, { chunks, chunkBytes }: BootstrapParts): void {
  const order = [...chunks.entries()].sort(([, a], [, b]) => Buffer.compare(a.digest, b.digest));
  order.forEach(([index, { digest, storedOffset, storedBytes, bytes }], row) => {
    const at = row * ROW_BYTES;
    table.set(digest, at);
    table.writeUInt32LE(storedBytes === bytes ? 0 : 1, at + 36);
    table.writeUInt32LE(storedBytes, at + 40);
    table.writeUInt32LE(bytes, at + 44);
    table.writeBigUInt64LE(BigInt(storedOffset), at + 48);
    table.writeBigUInt64LE(BigInt(index * chunkBytes), at + 56);
    table.writeBigUInt64LE(BigInt(index * chunkBytes), at + 64);
    table.writeUInt32LE(index, at + 72);
  });
}

async function tarGz(files: ReadonlyMap<string, Uint8Array>): Promise<Buffer> {
  const tar = pack();
  for (const [name, bytes] of files) tar.entry({ name }, Buffer.from(bytes));
  tar.finalize();
  return gzipSync(await buffer(tar));
}

// SPDX-License-Identifier: Apache-2.0
// What must be known of Nydus images to serve them again after a restart, without a registry:
// their bootstraps, and for each blob its chunk map with the digests that bootstraps vouch for.
// Both are on disk before the kernel is told of the image, since cached bytes are trusted by them.
//
//   <dir>/bootstraps/<sha256 of the content>     the kernel's primary device, byte for byte
//   <dir>/maps/<blob id>                          checksum (SHA-256), padding to 64 bytes, the map

import { createHash } from "node:crypto";
import { type FileHandle, mkdir, open, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { DaemonError, asDaemonError } from "../errors.ts";
import { RafsChunkMap } from "../image/rafs/chunk-map.ts";
import { type Digest, KIB, isDigest } from "../units.ts";
import { replaceFile } from "./durable-file.ts";

const PIECE_BYTES = 256 * KIB;
const MAP_HEADER_BYTES = 64;
const CHECKSUM_BYTES = 32;

export interface StoredBootstrap {
  readonly digest: Digest;
  readonly size: number;
  readonly path: string;
}

export class StreamStore {
  readonly #directory: string;
  #temporaries = 0;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** Holds files named by the 64 hex digits of their content: a directory of blobs. */
  get bootstrapDirectory(): string {
    return join(this.#directory, "bootstraps");
  }

  /** A fresh directory on the store's filesystem, for files on their way in. The caller removes it. */
  async temporary(): Promise<string> {
    const path = join(this.#directory, "incoming", `${process.pid}-${(this.#temporaries += 1)}`);
    await rm(path, { recursive: true, force: true });
    await mkdir(path, { recursive: true, mode: 0o700 });
    return path;
  }

  /** Forgets what a daemon that died left half done. */
  async clean(): Promise<void> {
    await rm(join(this.#directory, "incoming"), { recursive: true, force: true });
  }

  /** Copies the file at `path` in. Fault: image_invalid when it cannot be read. */
  async addBootstrap(path: string): Promise<StoredBootstrap> {
    const incoming = await this.temporary();
    try {
      const copy = join(incoming, "bootstrap");
      const { digest, size } = await copyHashed(path, copy);
      const target = join(this.bootstrapDirectory, hexOf(digest));
      await mkdir(this.bootstrapDirectory, { recursive: true, mode: 0o700 });
      await rename(copy, target);
      return { digest, size, path: target };
    } catch (error) {
      const where = path;
      throw asDaemonError(error, (detail) => ({ code: "image_invalid", where, detail }));
    } finally {
      await rm(incoming, { recursive: true, force: true });
    }
  }

  /** Of a file's content; undefined when it cannot be read. */
  async digestOf(path: string): Promise<Digest | undefined> {
    const file = await open(path, "r").catch(() => undefined);
    if (file === undefined) return undefined;
    try {
      return (await hashed(file)).digest;
    } finally {
      await file.close();
    }
  }

  async hasBootstrap(digest: Digest, size: number): Promise<boolean> {
    const path = join(this.bootstrapDirectory, hexOf(digest));
    const found = await stat(path).catch(() => undefined);
    return found?.size === size;
  }

  /** Resolves when the map is on disk. */
  async saveMap(blob: Digest, map: RafsChunkMap): Promise<void> {
    const parts = map.serialize();
    await replaceFile(this.#mapPath(blob), async (file) => {
      const hash = createHash("sha256");
      let at = MAP_HEADER_BYTES;
      for (const part of parts) {
        for (let from = 0; from < part.length; from += PIECE_BYTES) {
          const piece = part.subarray(from, from + PIECE_BYTES);
          hash.update(piece);
          await file.write(piece, 0, piece.length, at);
          at += piece.length;
        }
      }
      const header = new Uint8Array(MAP_HEADER_BYTES);
      header.set(hash.digest());
      await file.write(header, 0, header.length, 0);
    });
  }

  /** Undefined when there is none. A damaged one is set aside: fault state_damaged. */
  async loadMap(blob: Digest): Promise<RafsChunkMap | undefined> {
    const path = this.#mapPath(blob);
    let bytes: Uint8Array;
    try {
      bytes = await readWhole(path);
    } catch (error) {
      if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
      throw asDaemonError(error, (detail) => ({ code: "state_damaged", path, detail }));
    }
    try {
      return await parseMap(bytes, path);
    } catch (error) {
      await rename(path, `${path}.damaged`);
      const { message } = asDaemonError(error);
      const detail = `not a chunk map (set aside as ${path}.damaged): ${message}`;
      throw new DaemonError({ code: "state_damaged", path, detail });
    }
  }

  #mapPath(blob: Digest): string {
    return join(this.#directory, "maps", hexOf(blob));
  }
}

async function parseMap(bytes: Uint8Array, path: string): Promise<RafsChunkMap> {
  const payload = bytes.subarray(MAP_HEADER_BYTES);
  const hash = createHash("sha256");
  for (let at = 0; at < payload.length; at += PIECE_BYTES) {
    hash.update(payload.subarray(at, at + PIECE_BYTES));
    await nextTurn();
  }
  if (Buffer.compare(hash.digest(), bytes.subarray(0, CHECKSUM_BYTES)) !== 0) {
    throw new Error("its checksum is wrong");
  }
  return RafsChunkMap.deserialize(payload, path);
}

/** The whole file, in memory of its own that begins at an aligned address. */
async function readWhole(path: string): Promise<Uint8Array> {
  const file = await open(path, "r");
  try {
    const { size } = await file.stat();
    const bytes = new Uint8Array(new ArrayBuffer(size));
    await readExactly(file, bytes);
    return bytes;
  } finally {
    await file.close();
  }
}

async function readExactly(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const { bytesRead } = await file.read(bytes, at, bytes.length - at, at);
    if (bytesRead === 0) throw new Error("it shrank while it was read");
    at += bytesRead;
  }
}

async function copyHashed(from: string, to: string): Promise<{ digest: Digest; size: number }> {
  const source = await open(from, "r");
  try {
    if (!(await source.stat()).isFile()) throw new Error("not a regular file");
    const target = await open(to, "wx", 0o600);
    try {
      const copied = await hashed(source, async (piece, at) => {
        await target.write(piece, 0, piece.length, at);
      });
      await target.sync();
      return copied;
    } finally {
      await target.close();
    }
  } finally {
    await source.close();
  }
}

/** The digest and size of a file's content, each piece of which `onPiece` sees. */
async function hashed(
  file: FileHandle,
  onPiece?: (piece: Uint8Array, at: number) => Promise<void>,
): Promise<{ digest: Digest; size: number }> {
  const hash = createHash("sha256");
  const buffer = Buffer.allocUnsafe(PIECE_BYTES);
  let size = 0;
  for (;;) {
    const { bytesRead } = await file.read(buffer, 0, buffer.length, size);
    if (bytesRead === 0) break;
    const piece = buffer.subarray(0, bytesRead);
    hash.update(piece);
    await onPiece?.(piece, size);
    size += bytesRead;
  }
  const digest = `sha256:${hash.digest("hex")}`;
  if (!isDigest(digest)) throw new Error("a hash is not 64 hex digits");
  return { digest, size };
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

function hexOf(digest: Digest): string {
  return digest.slice("sha256:".length);
}

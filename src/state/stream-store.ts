// SPDX-License-Identifier: Apache-2.0
// What must be known of Nydus images to serve them again after a restart, without a registry:
// their bootstraps, and for each blob its chunk map with the digests that bootstraps vouch for.
// Both are on disk before the kernel is told of the image, since cached bytes are trusted by them.
//
//   <dir>/bootstraps/<sha256 of the content>     the kernel's primary device, byte for byte
//   <dir>/maps/<blob id>                          checksum (SHA-256), padding to 64 bytes, the map

import { createHash } from "node:crypto";
import { type FileHandle, mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { DaemonError, asDaemonError } from "../errors.ts";
import { RafsChunkMap } from "../image/rafs/chunk-map.ts";
import { openRegular } from "../source/blob-file.ts";
import { nextTurn } from "../platform/clock.ts";
import { type Digest, KIB, isDigest } from "../units.ts";
import { replaceFile, syncDirectory, writeAll } from "../platform/durable-file.ts";

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
  readonly #onDamage: (fault: DaemonError) => void;
  /** Bootstraps whose content was seen to be what they are named by. */
  readonly #verified = new Set<Digest>();
  #temporaries = 0;

  /** `onDamage` is told of each file that was set aside. */
  constructor(directory: string, onDamage: (fault: DaemonError) => void = () => undefined) {
    this.#directory = directory;
    this.#onDamage = onDamage;
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
    const incoming = join(this.#directory, "incoming");
    for (const name of await readdir(incoming).catch(() => [])) {
      // The daemon that we are to follow may be taking an image in.
      const pid = Number.parseInt(name, 10);
      if (pid !== process.pid && isAlive(pid)) continue;
      await rm(join(incoming, name), { recursive: true, force: true });
    }
  }

  /**
   * Copies the file at `path` in, unless `look`, which is given the copy's path, rejects: the file
   * itself may change meanwhile. Resolves when it is on disk. Fault: image_invalid when it cannot
   * be read.
   */
  async addBootstrap(
    path: string,
    look: (copyPath: string) => Promise<void> = () => Promise.resolve(),
  ): Promise<StoredBootstrap> {
    const incoming = await this.temporary();
    try {
      const copy = join(incoming, "bootstrap");
      const { digest, size } = await copyHashed(path, copy).catch((error: unknown) => {
        const where = path;
        throw asDaemonError(error, (detail) => ({ code: "image_invalid", where, detail }));
      });
      await look(copy);
      const target = join(this.bootstrapDirectory, hexOf(digest));
      await mkdir(this.bootstrapDirectory, { recursive: true, mode: 0o700 });
      await rename(copy, target);
      await syncDirectory(this.bootstrapDirectory);
      this.#verified.add(digest);
      return { digest, size, path: target };
    } finally {
      await rm(incoming, { recursive: true, force: true });
    }
  }

  /** Of a file's content; undefined when it cannot be read. */
  async digestOf(path: string): Promise<Digest | undefined> {
    const file = await openRegular(path).catch(() => undefined);
    if (file === undefined) return undefined;
    try {
      return (await hashed(file)).digest;
    } finally {
      await file.close();
    }
  }

  /** True when it is there and whole, for which it is read once. A damaged one is set aside. */
  async hasBootstrap(digest: Digest, size: number): Promise<boolean> {
    const path = join(this.bootstrapDirectory, hexOf(digest));
    const found = await stat(path).catch(() => undefined);
    if (found === undefined) return false;
    if (found.size === size) {
      if (this.#verified.has(digest)) return true;
      if ((await this.digestOf(path)) === digest) {
        this.#verified.add(digest);
        return true;
      }
    }
    this.#verified.delete(digest);
    await this.#setAside(path, `not the bootstrap it is named by, of ${size} bytes`);
    return false;
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
          await writeAll(file, piece, at);
          at += piece.length;
        }
      }
      const header = new Uint8Array(MAP_HEADER_BYTES);
      header.set(hash.digest());
      await writeAll(file, header, 0);
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
      throw await this.#setAside(path, `not a chunk map: ${asDaemonError(error).message}`);
    }
  }

  async #setAside(path: string, problem: string): Promise<DaemonError> {
    const aside = `${path}.damaged`;
    // Two that find the damage at once: one is enough.
    await rename(path, aside).catch(() => undefined);
    const detail = `${problem} (set aside as ${aside})`;
    const fault = new DaemonError({ code: "state_damaged", path, detail });
    this.#onDamage(fault);
    return fault;
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
  const source = await openRegular(from);
  try {
    const target = await open(to, "wx", 0o600);
    try {
      const copied = await hashed(source, (piece, at) => writeAll(target, piece, at));
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

function hexOf(digest: Digest): string {
  return digest.slice("sha256:".length);
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

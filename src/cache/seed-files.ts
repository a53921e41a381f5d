// SPDX-License-Identifier: Apache-2.0
// Cache files put in place before the kernel opens their objects. The kernel makes a new file without
// a name, and links it only when its object closes: a machine that crashes before that loses all of
// it. A file that is there by name is used as it is (kernel-notes/cachefiles-disk-names.md).
//
// What is put there is sparse and says "of this size, nothing cached" (the attribute's content byte 0
// is what the kernel writes too). Each order in which a crash may keep its parts is harmless:
//   a name without the attribute    the kernel refuses the file; mended when it is seeded again
//   the attribute, but a wrong length   the kernel makes it as long as the attribute says
//   another size in the attribute than copen's   the kernel drops the file
// Nothing is synced: filesystems with a journal keep what is made here before what is written into it.
// Nothing that is there already is replaced, and the kernel itself replaces whatever it does not trust.

import { mkdir, open, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { asDaemonError } from "../errors.ts";
import { cookieKeyProblem } from "../kernel/cachefiles/keys.ts";
import { errnoNameOf } from "../platform/errno-name.ts";
import { listOrNone } from "../platform/list-directory.ts";
import type { Log } from "../platform/log.ts";
import type { Native } from "../platform/native.ts";
import { BLOCK_BYTES, alignUp } from "../units.ts";
import type { Culled } from "./cull.ts";
import { type ObjectFile, encodedObjectFile } from "./disk-names.ts";

// fs/cachefiles/xattr.c: struct cachefiles_xattr, struct cachefiles_vol_xattr; the same on 6.1 and 6.12.
const ATTRIBUTE = "user.CacheFiles.cache";
const ATTRIBUTE_BYTES = 18;
const TYPE_OFFSET = 16;
const CONTENT_OFFSET = 17;
const TYPE_DATA = 1;
const CONTENT_DIRTY = 4;
/** EROFS gives a volume no coherency data: only the reserved word, which is 0. */
const VOLUME_ATTRIBUTE = new Uint8Array(4);
const ATTRIBUTE_BYTES_MAX = 4096;
const AT_ONCE_MAX = 8;

type AttributeCalls = Pick<Native, "getAttribute" | "setAttribute" | "renameNew">;

/** An object that the kernel is going to open. */
export interface Seed {
  readonly volumeKey: string;
  readonly cookieKey: string;
  /** What copen will be told, bytes. */
  readonly sizeBytes: number;
}

export interface SeedFilesParts {
  /** Bound. */
  readonly cacheDir: string;
  readonly native: AttributeCalls;
  readonly log: Log;
  /** A fresh directory on the cache's filesystem, removed when the daemon is gone. */
  readonly temporary: () => Promise<string>;
  /** Deletes a file unless the kernel has it open. */
  readonly cull: (file: ObjectFile) => Culled;
}

export class SeedFiles {
  readonly #parts: SeedFilesParts;
  #directory: Promise<string> | undefined;
  #made = 0;

  constructor(parts: SeedFilesParts) {
    this.#parts = parts;
  }

  /**
   * Resolves when each of them has its file. Never rejects: without one, an object is served all the
   * same, and only a crash costs more.
   */
  async seed(seeds: readonly Seed[]): Promise<void> {
    for (let at = 0; at < seeds.length; at += AT_ONCE_MAX) {
      const some = seeds.slice(at, at + AT_ONCE_MAX);
      await Promise.all(some.map((seed) => this.#seedOrWarn(seed)));
    }
  }

  async #seedOrWarn(seed: Seed): Promise<void> {
    try {
      await this.#seedOne(seed);
    } catch (error) {
      this.#parts.log.warn(
        { key: seed.cookieKey, err: asDaemonError(error) },
        "a cache file cannot be put in place: a crash during its first mount will cost what is cached",
      );
    }
  }

  async #seedOne(seed: Seed): Promise<void> {
    const { cacheDir, native, cull } = this.#parts;
    const file = encodedObjectFile(cacheDir, seed);
    if (file === undefined || cookieKeyProblem(seed.cookieKey) !== undefined) return;
    const path = join(file.directory, file.name);
    const found = await attributeOf(native, path);
    if (found instanceof Uint8Array && isUsable(found)) return;
    // There, but no mount of this key would succeed, or find anything in it.
    if (found !== "no file" && cull(file) === "in use") return;
    await this.#make(seed, file.directory, path);
  }

  async #make({ sizeBytes }: Seed, directory: string, path: string): Promise<void> {
    const { native } = this.#parts;
    const temporary = await this.#temporaryPath();
    try {
      const made = await open(temporary, "wx", 0o600);
      try {
        await made.truncate(alignUp(sizeBytes, BLOCK_BYTES));
      } finally {
        await made.close();
      }
      await native.setAttribute(temporary, ATTRIBUTE, objectAttribute(sizeBytes));
      await this.#makeDirectory(directory);
      await native.renameNew(temporary, path);
    } catch (error) {
      await rm(temporary, { force: true });
      if (errnoNameOf(error) !== "EEXIST") throw error;
    }
  }

  /** A fan directory, in its volume's; the kernel makes those that are missing of the 256. */
  async #makeDirectory(directory: string): Promise<void> {
    const volume = dirname(directory);
    await this.#makeVolume(volume);
    await mkdir(directory, { mode: 0o700 }).catch(unlessThere);
  }

  /** In one step, attribute and all: the kernel mounts nothing of a volume whose attribute is missing. */
  async #makeVolume(path: string): Promise<void> {
    const { native } = this.#parts;
    const found = await attributeOf(native, path);
    if (found === "no attribute") await native.setAttribute(path, ATTRIBUTE, VOLUME_ATTRIBUTE);
    if (found !== "no file") return;
    const temporary = await this.#temporaryPath();
    await mkdir(temporary, { mode: 0o700 });
    try {
      await native.setAttribute(temporary, ATTRIBUTE, VOLUME_ATTRIBUTE);
      await native.renameNew(temporary, path);
    } catch (error) {
      await rm(temporary, { recursive: true, force: true });
      unlessThere(error);
    }
  }

  async #temporaryPath(): Promise<string> {
    this.#directory ??= this.#parts.temporary();
    const name = `seed-${(this.#made += 1)}`;
    return join(await this.#directory, name);
  }
}

/** The attribute of an object of which nothing is cached. */
export function objectAttribute(sizeBytes: number): Uint8Array {
  const bytes = Buffer.alloc(ATTRIBUTE_BYTES);
  bytes.writeBigUInt64BE(BigInt(sizeBytes));
  bytes[TYPE_OFFSET] = TYPE_DATA;
  return bytes;
}

/**
 * Gives each volume the attribute that a crash took from it: made by the kernel in two steps, it may
 * have been between them. Before the cache is bound, for mounts that are not announced.
 */
export async function mendVolumes(cacheDir: string, native: AttributeCalls): Promise<void> {
  const root = join(cacheDir, "cache");
  for (const name of await listOrNone(root)) {
    const path = join(root, name);
    if (!name.startsWith("I") || (await attributeOf(native, path)) !== "no attribute") continue;
    await native.setAttribute(path, ATTRIBUTE, VOLUME_ATTRIBUTE);
  }
}

/** False when the kernel would refuse or drop the file, whatever size it is opened with. */
function isUsable(attribute: Uint8Array): boolean {
  if (attribute.length !== ATTRIBUTE_BYTES || attribute[TYPE_OFFSET] !== TYPE_DATA) return false;
  return attribute[CONTENT_OFFSET] !== CONTENT_DIRTY;
}

async function attributeOf(
  native: Pick<Native, "getAttribute">,
  path: string,
): Promise<Uint8Array | "no file" | "no attribute"> {
  try {
    return await native.getAttribute(path, ATTRIBUTE, ATTRIBUTE_BYTES_MAX);
  } catch (error) {
    const name = errnoNameOf(error);
    if (name === "ENOENT") return "no file";
    if (name === "ENODATA") return "no attribute";
    throw error;
  }
}

function unlessThere(error: unknown): void {
  if (errnoNameOf(error) !== "EEXIST") throw error;
}

// SPDX-License-Identifier: Apache-2.0
// Where the kernel keeps the cache file of an object, for keys of plain characters (digests are).
// Sources: fs/cachefiles/key.c, cachefiles_cook_key(); fs/netfs/fscache_main.c, fscache_hash();
// kernel-notes/cachefiles-disk-names.md.

import { join } from "node:path";

const GOLDEN_RATIO_32 = 0x61c88647;
const PLAIN = /^[!-.0-~]+$/;

export interface ObjectFile {
  /** `<dir>/cache/I<volume key>/@xx` */
  readonly directory: string;
  readonly name: string;
}

/** Undefined for keys that the kernel encodes. `volumeKey` includes `erofs,`. */
export function objectFile(
  cacheDir: string,
  { volumeKey, cookieKey }: { volumeKey: string; cookieKey: string },
): ObjectFile | undefined {
  if (!PLAIN.test(volumeKey) || !PLAIN.test(cookieKey)) return undefined;
  const directory = directoryOf(cacheDir, volumeKey, Buffer.from(cookieKey, "latin1"));
  return { directory, name: `D${cookieKey}` };
}

function directoryOf(cacheDir: string, volumeKey: string, cookieKey: Uint8Array): string {
  const volume = Buffer.from(volumeKey, "latin1");
  const salt = fscacheHash(0, Buffer.concat([Buffer.of(volume.length), volume, Buffer.of(0)]));
  const fan = fscacheHash(salt, cookieKey) & 0xff;
  return join(cacheDir, "cache", `I${volumeKey}`, `@${fan.toString(16).padStart(2, "0")}`);
}

/**
 * The same for keys that the kernel encodes, too; undefined for the few short ones that it writes
 * in hex. Only for looking: what deletes files keeps to names that are what they say.
 */
export function encodedObjectFile(
  cacheDir: string,
  { volumeKey, cookieKey }: { volumeKey: string; cookieKey: string },
): ObjectFile | undefined {
  const plain = objectFile(cacheDir, { volumeKey, cookieKey });
  if (plain !== undefined || !PLAIN.test(volumeKey)) return plain;
  const key = Buffer.from(cookieKey);
  if (HEX_LENGTHS.has(key.length)) return undefined;
  return { directory: directoryOf(cacheDir, volumeKey, key), name: encodedName(key) };
}

/** Keys of which hex words may be shorter than the other encoding. */
const HEX_LENGTHS = new Set([0, 1, 2, 4]);
const DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-";

/** `E`, how many bytes are missing to a multiple of three, and four digits for each three bytes. */
function encodedName(key: Uint8Array): string {
  const groups = Math.ceil(key.length / 3);
  let name = `E${groups * 3 - key.length}`;
  for (let at = 0; at < groups * 3; at += 3) {
    const bits = (key[at] ?? 0) | ((key[at + 1] ?? 0) << 8) | ((key[at + 2] ?? 0) << 16);
    for (const shift of [0, 6, 12, 18]) name += DIGITS.charAt((bits >>> shift) & 63);
  }
  return name;
}

/** 32 bits, over the data zero-padded to whole words. */
function fscacheHash(salt: number, data: Uint8Array): number {
  const padded = Buffer.alloc(Math.ceil(data.length / 4) * 4);
  padded.set(data);
  let x = 0;
  let y = salt;
  for (let at = 0; at < padded.length; at += 4) {
    x = (x ^ padded.readUInt32LE(at)) >>> 0;
    y = (y ^ x) >>> 0;
    x = ((x << 7) | (x >>> 25)) >>> 0;
    x = (x + y) >>> 0;
    y = ((y << 20) | (y >>> 12)) >>> 0;
    y = Math.imul(y, 9) >>> 0;
  }
  return Math.imul(y ^ Math.imul(x, GOLDEN_RATIO_32), GOLDEN_RATIO_32) >>> 0;
}

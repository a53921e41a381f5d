// SPDX-License-Identifier: Apache-2.0
// Where the kernel keeps the cache file of an object.
// Sources: fs/cachefiles/key.c, cachefiles_cook_key(); fs/netfs/fscache_main.c, fscache_hash();
// kernel-notes/cachefiles-disk-names.md.

import { join } from "node:path";
import { cookieKeyProblem } from "../kernel/cachefiles/keys.ts";

const GOLDEN_RATIO_32 = 0x61c88647;
/** Keys that stand in a file's name as they are. */
const PLAIN = /^[!-.0-~\x7f]+$/;
const DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-";

export interface ObjectName {
  /** Includes `erofs,`. */
  readonly volumeKey: string;
  readonly cookieKey: string;
}

export interface ObjectFile {
  /** `<dir>/cache/I<volume key>/@xx` */
  readonly directory: string;
  readonly name: string;
}

/** Undefined for keys that the kernel encodes: what deletes files keeps to names that are what they say. */
export function objectFile(cacheDir: string, object: ObjectName): ObjectFile | undefined {
  const isPlain = PLAIN.test(object.volumeKey) && PLAIN.test(object.cookieKey);
  return isPlain ? encodedObjectFile(cacheDir, object) : undefined;
}

/** The same for every key that the kernel keeps apart (kernel/cachefiles/keys.ts); undefined for others. */
export function encodedObjectFile(
  cacheDir: string,
  { volumeKey, cookieKey }: ObjectName,
): ObjectFile | undefined {
  if (cookieKeyProblem(cookieKey) !== undefined || /[/\0]/.test(volumeKey)) return undefined;
  const volume = Buffer.from(volumeKey);
  const key = Buffer.from(cookieKey);
  const salt = fscacheHash(0, Buffer.concat([Buffer.of(volume.length), volume, Buffer.of(0)]));
  const fan = (fscacheHash(salt, key) & 0xff).toString(16).padStart(2, "0");
  const directory = join(cacheDir, "cache", `I${volumeKey}`, `@${fan}`);
  return { directory, name: PLAIN.test(cookieKey) ? `D${cookieKey}` : encodedName(key) };
}

function encodedName(key: Buffer): string {
  const padded = padToWords(key);
  const [big, little]: [number[], number[]] = [[], []];
  for (let at = 0; at < padded.length; at += 4) {
    big.push(padded.readUInt32BE(at));
    little.push(padded.readUInt32LE(at));
  }
  const [bigLength, littleLength] = [hexLength(big), hexLength(little)];
  const groups = Math.ceil(key.length / 3);
  if (Math.min(bigLength, littleLength) >= 2 + 4 * groups) return base64Name(key, groups);
  return bigLength <= littleLength ? `S${hexWords(big)}` : `T${hexWords(little)}`;
}

/** With the mark before each word. */
function hexLength(words: readonly number[]): number {
  return words.length + hexWords(words).replaceAll(",", "").length;
}

function hexWords(words: readonly number[]): string {
  return words.map((word) => (word === 0 ? "" : word.toString(16))).join(",");
}

/** `E`, how many bytes are missing to a multiple of three, and four digits for each three bytes. */
function base64Name(key: Buffer, groups: number): string {
  let name = `E${groups * 3 - key.length}`;
  for (let at = 0; at < groups * 3; at += 3) {
    const bits = (key[at] ?? 0) | ((key[at + 1] ?? 0) << 8) | ((key[at + 2] ?? 0) << 16);
    for (const shift of [0, 6, 12, 18]) name += DIGITS.charAt((bits >>> shift) & 63);
  }
  return name;
}

/** 32 bits, over the data zero-padded to whole words. */
function fscacheHash(salt: number, data: Uint8Array): number {
  const padded = padToWords(data);
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

function padToWords(data: Uint8Array): Buffer {
  const padded = Buffer.alloc(Math.ceil(data.length / 4) * 4);
  padded.set(data);
  return padded;
}

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
  const volume = Buffer.from(volumeKey, "latin1");
  const salt = fscacheHash(0, Buffer.concat([Buffer.of(volume.length), volume, Buffer.of(0)]));
  const fan = fscacheHash(salt, Buffer.from(cookieKey, "latin1")) & 0xff;
  const directory = join(
    cacheDir,
    "cache",
    `I${volumeKey}`,
    `@${fan.toString(16).padStart(2, "0")}`,
  );
  return { directory, name: `D${cookieKey}` };
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

// SPDX-License-Identifier: Apache-2.0
// The feature bits of a RAFS blob. The low 16 change how a blob is read, so an unknown one is
// refused; of the high ones only those that say what lies behind the data are of use.
// Source: nydus 2.4, storage/src/device.rs, BlobFeatures.

import { asHex, invalid, unsupported } from "./fields.ts";

/** The blob entry may lack it where the chunk info header has it. */
export const INLINED_BOOTSTRAP_BIT = 0x2;

const ALIGNED = 0x1;
const CHUNK_INFO_V2 = 0x4;
const ZRAN = 0x8;
const SEPARATE = 0x10;
const BLOB_DIGEST = 0x20;
const TARFS = 0x40;
const BATCH = 0x80;
const ENCRYPTED = 0x100;
const DICTIONARY = 0x200;
const PREFETCH_FILES = 0x400;
const EXTERNAL = 0x800;
const TAR_HEADERS = 0x10000000;
const TABLE_OF_CONTENTS = 0x20000000;

const REFUSED: ReadonlyArray<readonly [bit: number, name: string]> = [
  [ENCRYPTED, "is encrypted"],
  [TARFS, "is a tarfs blob"],
  [EXTERNAL, "is an external blob"],
];
const LOW_BITS = 0xffff;
const KNOWN_LOW_BITS =
  ALIGNED |
  INLINED_BOOTSTRAP_BIT |
  CHUNK_INFO_V2 |
  ZRAN |
  SEPARATE |
  BLOB_DIGEST |
  BATCH |
  DICTIONARY |
  PREFETCH_FILES;

export interface RafsFeatures {
  readonly bits: number;
  readonly inlinedBootstrap: boolean;
  readonly chunkInfoV2: boolean;
  /** The data is an ordinary tar.gz, read from points inside its deflate stream. */
  readonly zran: boolean;
  /** The chunk infos lie in a blob of their own. */
  readonly separate: boolean;
  readonly hasBlobDigest: boolean;
  /** Small chunks are compressed together. */
  readonly batch: boolean;
  readonly dictionary: boolean;
  readonly prefetchFiles: boolean;
  /** Each section is followed by a tar header. */
  readonly tarHeaders: boolean;
  /** The blob ends with a table of contents. */
  readonly toc: boolean;
}

/** `what` names the blob in faults. */
export function parseFeatures(bits: number, what: string, where: string): RafsFeatures {
  const has = (bit: number): boolean => (bits & bit) !== 0;
  for (const [bit, name] of REFUSED) {
    if (has(bit)) throw unsupported(where, `${what} ${name} (feature ${asHex(bit)})`);
  }
  const unknown = bits & LOW_BITS & ~KNOWN_LOW_BITS;
  if (unknown !== 0) throw unsupported(where, `${what} has unknown features: ${asHex(unknown)}`);
  if (!has(ALIGNED)) throw unsupported(where, `${what} has chunks that are not aligned to 4096`);
  if (has(BATCH) && has(ZRAN)) throw invalid(where, `${what} is both batch and zran`);
  if ((has(BATCH) || has(ZRAN)) && !has(CHUNK_INFO_V2)) {
    throw invalid(where, `${what} is batch or zran without chunk infos of version 2`);
  }
  if (has(ZRAN) && !has(SEPARATE)) {
    throw invalid(where, `${what} is zran, but its chunk info is not in a blob of its own`);
  }
  return {
    bits,
    inlinedBootstrap: has(INLINED_BOOTSTRAP_BIT),
    chunkInfoV2: has(CHUNK_INFO_V2),
    zran: has(ZRAN),
    separate: has(SEPARATE),
    hasBlobDigest: has(BLOB_DIGEST),
    batch: has(BATCH),
    dictionary: has(DICTIONARY),
    prefetchFiles: has(PREFETCH_FILES),
    tarHeaders: has(TAR_HEADERS),
    toc: has(TABLE_OF_CONTENTS),
  };
}

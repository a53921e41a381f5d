// SPDX-License-Identifier: Apache-2.0
// What of a cache file may be trusted, as it is kept beside it. A file's own extents are not
// enough: a block may be there and hold nothing yet when the power goes. So a record is written
// only after the blocks that it names are on disk, and it is for one file only.
//
//   bytes 0 to 31: SHA-256 of all that follows; a line of JSON; one bit a block of 4 KiB

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import * as z from "zod";
import { BlockSet } from "../../cache/block-set.ts";
import { nextTurn } from "../../platform/clock.ts";
import { replaceFile, writeAll } from "../../platform/durable-file.ts";
import { KIB } from "../../units.ts";
import type { KeyName } from "./names.ts";

const VERSION = 1;
const CHECKSUM_BYTES = 32;
const NEWLINE = 0x0a;
const HASH_PIECE_BYTES = 512 * KIB;

const header = z.strictObject({
  version: z.literal(VERSION),
  volumeKey: z.string(),
  cookieKey: z.string(),
  sizeBytes: z.int().positive(),
  /** Which file it is about: its inode number and when it was made, ns. */
  inode: z.string(),
  bornNs: z.string(),
  /** When the file was last written, ns, for one that was closed in order: nobody may have since. */
  writtenNs: z.string().optional(),
});

export type RecordHeader = Omit<z.infer<typeof header>, "version">;

export interface FileRecord {
  readonly header: RecordHeader;
  readonly blocks: BlockSet;
}

/** Resolves when it is on disk. `blocks` is taken as it is when this is called. */
export async function saveRecord(
  path: string,
  known: RecordHeader,
  blocks: BlockSet,
): Promise<void> {
  const line = new TextEncoder().encode(`${JSON.stringify({ version: VERSION, ...known })}\n`);
  const bits = blocks.serialize();
  const payload = new Uint8Array(line.length + bits.length);
  payload.set(line);
  payload.set(bits, line.length);
  const checksum = await hashOf(payload);
  await replaceFile(path, async (file) => {
    await writeAll(file, checksum, 0);
    await writeAll(file, payload, CHECKSUM_BYTES);
  });
}

/** Why there is none, otherwise. Never rejects: what cannot be read is not trusted. */
export async function loadRecord(
  path: string,
  of: KeyName & { readonly sizeBytes: number },
): Promise<FileRecord | string> {
  try {
    const bytes = await readFile(path);
    const payload = bytes.subarray(CHECKSUM_BYTES);
    const isWhole = Buffer.compare(await hashOf(payload), bytes.subarray(0, CHECKSUM_BYTES)) === 0;
    if (!isWhole) return "its record is damaged";
    const end = payload.indexOf(NEWLINE);
    const { version: _, ...known } = header.parse(JSON.parse(payload.toString("utf8", 0, end)));
    const isSame =
      known.volumeKey === of.volumeKey &&
      known.cookieKey === of.cookieKey &&
      known.sizeBytes === of.sizeBytes;
    if (!isSame) return "its record is of another stream";
    const blocks = BlockSet.deserialize(of.sizeBytes, payload.subarray(end + 1));
    return blocks === undefined ? "its record is cut" : { header: known, blocks };
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return "no record";
    return `its record cannot be read: ${error instanceof Error ? error.message : String(error)}`;
  }
}

async function hashOf(bytes: Uint8Array): Promise<Uint8Array> {
  const hash = createHash("sha256");
  for (let at = 0; at < bytes.length; at += HASH_PIECE_BYTES) {
    hash.update(bytes.subarray(at, at + HASH_PIECE_BYTES));
    await nextTurn();
  }
  return hash.digest();
}

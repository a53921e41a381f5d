// SPDX-License-Identifier: Apache-2.0
// The bootstrap layer of a Nydus image, unpacked: a tar, gzipped or not, of image/image.boot and,
// where the converter bundled them, image/<64 hex>.blob.meta. One pass: it is fetched, hashed,
// unzipped and written at the same time, into temporary names. Only when the digest of the whole
// layer is right do the files get their own: nothing else of it is ever believed.

import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { open, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGunzip } from "node:zlib";
import { type Extract, extract } from "tar-stream";
import { DaemonError, type Fault, asDaemonError, invariant } from "../errors.ts";
import { KIB } from "../units.ts";
import { LayerStream } from "./layer-stream.ts";
import { type BlobLocation, type FetchOptions, type Source, formatOrigin } from "./source.ts";

const BOOTSTRAP_NAME = "image.boot";
const BLOB_META_NAME = /^([0-9a-f]{64})\.blob\.meta$/;
/** An image has at most as many blobs as devices, far fewer than this; the rest is chaff. */
const MEMBERS_MAX = 1024;
const USTAR = { offset: 257, text: "ustar" } as const;
/** Each piece that comes out of zlib costs a turn of its thread pool. */
const GUNZIP_PIECE_BYTES = 256 * KIB;

export interface BootstrapLimits extends FetchOptions {
  /** Bytes of the unpacked tar at most, and of the layer as it is stored. */
  readonly bytesMax: number;
}

export interface BootstrapFiles {
  readonly bootstrapPath: string;
  readonly bootstrapBytes: number;
  /** By the 64 hex digits of the blob they are for. */
  readonly blobMetas: ReadonlyMap<string, { readonly path: string; readonly bytes: number }>;
}

type Entry = Extract extends AsyncIterable<infer T> ? T : never;

interface Member {
  readonly temporaryPath: string;
  readonly bytes: number;
}

/**
 * Unpacks `layer` into `directory`, which the caller made for it, empty, and removes. When it
 * fails the directory is empty again. Faults: the source's, digest_mismatch, image_invalid (no
 * tar, no bootstrap in it, more than `bytesMax`), image_unsupported (packed otherwise),
 * syscall_failed (the directory cannot be written).
 */
export async function fetchBootstrapLayer(
  source: Source,
  layer: BlobLocation,
  directory: string,
  options: BootstrapLimits,
): Promise<BootstrapFiles> {
  const where = `bootstrap layer ${layer.digest} of ${formatOrigin(layer.origin)}`;
  try {
    const size = layer.size ?? (await source.blobSize(layer, options));
    if (size > options.bytesMax) throw tooLarge(where, options.bytesMax);
    const stream = new LayerStream(source, { ...layer, size }, options);
    const unpacking = unpack(stream, { directory, where, bytesMax: options.bytesMax });
    const [unpacked] = await Promise.allSettled([unpacking]);
    // Whatever the bytes unpack to: when they are not the layer's, that is the fault.
    const actual = `sha256:${await stream.digestHex()}`;
    if (actual !== layer.digest) {
      throw new DaemonError({ code: "digest_mismatch", where, expected: layer.digest, actual });
    }
    if (unpacked.status === "rejected") throw unpacked.reason;
    return await putInPlace(unpacked.value, { directory, where });
  } catch (error) {
    await clear(directory);
    throw asDaemonError(error, (detail) => faultOf(error, detail, where));
  }
}

interface Unpacking {
  readonly directory: string;
  readonly where: string;
  readonly bytesMax: number;
}

async function unpack(stream: LayerStream, to: Unpacking): Promise<ReadonlyMap<string, Member>> {
  const packing = await packingOf(stream, to.where);
  const tar = extract();
  // When one side fails the other is ended, with the same error or with a less telling one.
  let first: Error | undefined;
  const fail = (error: unknown): void => {
    first ??= error instanceof Error ? error : new Error(String(error));
    tar.destroy(first);
  };
  const members = writeMembers(tar, { ...to, fail });
  const pumped = packing === "gzip" ? pumpGzip(stream, tar, to) : pumpTar(stream, tar, to);
  const [written, pump] = await Promise.allSettled([members, pumped]);
  if (first !== undefined) throw first;
  if (pump.status === "rejected") throw pump.reason;
  if (written.status === "rejected") throw written.reason;
  return written.value;
}

async function packingOf(stream: LayerStream, where: string): Promise<"gzip" | "tar"> {
  const head = await stream.head();
  if (head[0] === 0x1f && head[1] === 0x8b) return "gzip";
  if (head.toString("latin1", USTAR.offset, USTAR.offset + USTAR.text.length) === USTAR.text) {
    return "tar";
  }
  const magic = head.subarray(0, 4).toString("hex");
  const detail = `it is neither gzip nor tar (it begins with ${magic})`;
  throw new DaemonError({ code: "image_unsupported", where, detail });
}

function pumpTar(stream: Readable, tar: Extract, to: Unpacking): Promise<void> {
  return pipeline(stream, (pieces: AsyncIterable<Uint8Array>) => metered(pieces, to), tar);
}

function pumpGzip(stream: Readable, tar: Extract, to: Unpacking): Promise<void> {
  const gunzip = createGunzip({ chunkSize: GUNZIP_PIECE_BYTES });
  return pipeline(
    stream,
    gunzip,
    async function* (pieces: AsyncIterable<Uint8Array>) {
      yield* metered(pieces, to);
      // Behind the end of its data zlib reads no more, and says nothing about it.
      if (gunzip.writableEnded && gunzip.writableLength === 0) return;
      throw invalid(to.where, "there are bytes behind the end of its gzip data");
    },
    tar,
  );
}

async function* metered(pieces: AsyncIterable<Uint8Array>, { where, bytesMax }: Unpacking) {
  let bytes = 0;
  for await (const piece of pieces) {
    bytes += piece.length;
    if (bytes > bytesMax) throw tooLarge(where, bytesMax);
    yield piece;
  }
}

async function writeMembers(
  tar: Extract,
  to: Unpacking & { readonly fail: (error: unknown) => void },
): Promise<ReadonlyMap<string, Member>> {
  const members = new Map<string, Member>();
  let count = 0;
  for await (const entry of tar) {
    count += 1;
    try {
      if (count > MEMBERS_MAX) throw invalid(to.where, `it has more than ${MEMBERS_MAX} members`);
      await takeMember(entry, members, to);
    } catch (error) {
      to.fail(error);
      throw error;
    }
  }
  if (!members.has(BOOTSTRAP_NAME)) throw invalid(to.where, `it has no image/${BOOTSTRAP_NAME}`);
  return members;
}

async function takeMember(
  entry: Entry,
  members: Map<string, Member>,
  { directory, where }: Unpacking,
): Promise<void> {
  const name = wantedName(entry);
  if (name === undefined) {
    entry.resume();
    return;
  }
  if (members.has(name)) throw invalid(where, `it has two members ${name}`);
  const temporaryPath = join(directory, `.${randomBytes(8).toString("hex")}.partial`);
  members.set(name, { temporaryPath, bytes: await writeMember(entry, temporaryPath) });
}

/** Only plain files of the folder `image`, or of none, as old converters wrote them. */
function wantedName({ header }: Entry): string | undefined {
  const { type } = header;
  if (type !== "file" && type !== "contiguous-file") return undefined;
  const name = /^(?:\.\/)?(?:image\/)?([^/]+)$/.exec(header.name)?.[1] ?? "";
  return name === BOOTSTRAP_NAME || BLOB_META_NAME.test(name) ? name : undefined;
}

async function writeMember(entry: Entry, path: string): Promise<number> {
  const file = await open(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600);
  try {
    let bytes = 0;
    for await (const piece of entry) {
      invariant(piece instanceof Uint8Array, "a member comes as bytes");
      for (let done = 0; done < piece.length; ) {
        const { bytesWritten } = await file.write(piece, done, piece.length - done);
        done += bytesWritten;
      }
      bytes += piece.length;
    }
    return bytes;
  } finally {
    await file.close();
  }
}

async function putInPlace(
  members: ReadonlyMap<string, Member>,
  { directory, where }: { readonly directory: string; readonly where: string },
): Promise<BootstrapFiles> {
  const blobMetas = new Map<string, { path: string; bytes: number }>();
  let bootstrap: { path: string; bytes: number } | undefined;
  for (const [name, { temporaryPath, bytes }] of members) {
    const path = join(directory, name);
    await rename(temporaryPath, path);
    const hex = BLOB_META_NAME.exec(name)?.[1];
    if (hex === undefined) bootstrap = { path, bytes };
    else blobMetas.set(hex, { path, bytes });
  }
  if (bootstrap === undefined) throw invalid(where, `it has no image/${BOOTSTRAP_NAME}`);
  return { bootstrapPath: bootstrap.path, bootstrapBytes: bootstrap.bytes, blobMetas };
}

async function clear(directory: string): Promise<void> {
  const names = await readdir(directory).catch(() => []);
  for (const name of names) await rm(join(directory, name), { recursive: true, force: true });
}

/** A failure of the disk is the machine's; all else that is not ours is the tar or the gzip. */
function faultOf(error: unknown, detail: string, where: string): Fault {
  if (error instanceof Error && "syscall" in error && "errno" in error && "code" in error) {
    return {
      code: "syscall_failed",
      syscall: String(error.syscall),
      errno: Math.abs(Number(error.errno)),
      errnoName: String(error.code),
      detail,
    };
  }
  return { code: "image_invalid", where, detail: `it cannot be unpacked: ${detail}` };
}

function tooLarge(where: string, bytesMax: number): DaemonError {
  return invalid(where, `it unpacks to more than ${bytesMax} bytes`);
}

function invalid(where: string, detail: string): DaemonError {
  return new DaemonError({ code: "image_invalid", where, detail });
}

// SPDX-License-Identifier: Apache-2.0
// What a prefetch wants of an image: all, files by their names, or what a trace has read. Names are
// looked up in the image's own metadata: a Nydus bootstrap is on this machine, that of a raw layer
// comes from its source, for this alone.

import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { DaemonError } from "../../errors.ts";
import { type NamedFiles, namedFiles } from "../../image/erofs/find-paths.ts";
import { type ErofsFile, ErofsReader } from "../../image/erofs/inode.ts";
import { type MetadataPlaces, metadataPlaces } from "../../image/erofs/metadata.ts";
import { SUPERBLOCK_HEAD_BYTES, parseSuperblock } from "../../image/erofs/superblock.ts";
import { BOOTSTRAP_HEAD_BYTES, parseBootstrapHead } from "../../image/rafs/bootstrap.ts";
import type { Binding, StreamRecord } from "../../state/bindings.ts";
import type { PrefetchWhat } from "../../state/prefetch-store.ts";
import { KIB, alignDown } from "../../units.ts";
import type { Stream } from "../stream.ts";
import { fileExtents } from "./file-extents.ts";
import { type ReadAt, readFileAt } from "./files.ts";
import { type Wanted, addBlocks, emptySets, mergedInTime } from "./wanted.ts";

/** Of a raw layer's metadata, at once; and how many such pieces are kept. */
const PIECE_BYTES = 256 * KIB;
const PIECES_MAX = 64;
const FETCH_LIMIT_MS = 60_000;

/** What a trace says was read, as control's trace format has it. */
export interface TraceReads {
  readonly image?: { readonly manifestDigest: string } | undefined;
  readonly streams: readonly { readonly stream: number; readonly digest: string }[];
  /** In the order of time. */
  readonly reads: readonly {
    readonly stream: number;
    readonly offset: number;
    readonly length: number;
  }[];
}

export interface FindParts {
  /** Files named by the 64 hex digits of the bootstrap they are. */
  readonly bootstrapDirectory: string;
  readonly openStream: (record: StreamRecord) => Promise<Stream>;
  readonly nowMs: () => number;
}

/** The devices of an image, the primary one first. */
export function streamsOf({ stream, devices }: Pick<Binding, "stream" | "devices">) {
  return [stream, ...devices];
}

/** Fault: trace_mismatch when it has read nothing of this image, or more than that image has. */
export function traceWhat(trace: TraceReads, binding: Binding): PrefetchWhat {
  const streams = streamsOf(binding);
  const devices = new Map(
    trace.streams.map(({ stream, digest }) => {
      return [stream, streams.findIndex((record) => record.digest === digest)];
    }),
  );
  const mismatch = (detail: string): DaemonError =>
    new DaemonError({ code: "trace_mismatch", reference: binding.reference, detail });
  if (trace.image !== undefined && trace.image.manifestDigest !== binding.manifestDigest) {
    throw mismatch(`it is of ${trace.image.manifestDigest}, this is ${binding.manifestDigest}`);
  }
  if (trace.reads.length === 0) throw mismatch("it has no reads: nothing was missing meanwhile");
  const extents = trace.reads.flatMap(({ stream, offset, length }) => {
    const device = devices.get(stream) ?? -1;
    const size = streams[device]?.size;
    if (size === undefined) return [];
    if (offset >= size) throw mismatch(`it reads at byte ${offset} of a stream of ${size}`);
    return [{ device, offset, length }];
  });
  if (extents.length === 0) {
    const [other] = trace.streams;
    const of = other === undefined ? "nothing" : `${other.digest}, and nothing of this image`;
    throw mismatch(`it is of ${of}`);
  }
  const merged = mergedInTime(
    extents,
    streams.map(({ size }) => size),
  );
  return {
    kind: "trace",
    extents: merged.map(({ device, offset, length }) => [device, offset, length]),
  };
}

/** Faults: nothing_matches, image_invalid, image_unsupported, and those of a source. */
export async function findWanted(
  parts: FindParts,
  { binding, what, signal }: { binding: Binding; what: PrefetchWhat; signal: AbortSignal },
): Promise<Wanted> {
  const streams = streamsOf(binding);
  const sets = emptySets(streams.map(({ size }) => size));
  if (what.kind === "files") {
    await addFiles(parts, { binding, names: what, sets, signal });
    return { sets, order: undefined };
  }
  if (what.kind === "all") {
    for (const [device, { size }] of streams.entries()) {
      addBlocks(sets, { device, offset: 0, length: size });
    }
    return { sets, order: undefined };
  }
  const order = what.extents.map(([device, offset, length]) => ({ device, offset, length }));
  for (const extent of order) addBlocks(sets, extent);
  return { sets, order };
}

async function addFiles(
  parts: FindParts,
  of: {
    readonly binding: Binding;
    readonly names: NamedFiles;
    readonly sets: Wanted["sets"];
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { binding, sets } = of;
  const { reader, rootNid, places } = await readerOf(parts, of);
  const unmatched: string[] = [];
  const found = namedFiles(reader, rootNid, of.names, (name) => unmatched.push(name));
  for await (const extent of fileExtents(reader, once(found), places)) addBlocks(sets, extent);
  if (unmatched.length === 0) return;
  const names = unmatched.map((name) => `"${name}"`).join(", ");
  throw new DaemonError({ code: "nothing_matches", reference: binding.reference, names });
}

async function* once(nids: AsyncIterable<number>): AsyncGenerator<number, void> {
  const seen = new Set<number>();
  for await (const nid of nids) {
    if (seen.has(nid)) continue;
    seen.add(nid);
    yield nid;
  }
}

interface OpenedImage {
  readonly reader: ErofsReader;
  readonly rootNid: number;
  /** Undefined for a bootstrap. */
  readonly places: MetadataPlaces | undefined;
}

/** What is read for it is wanted too: whoever opens these files needs the same. */
async function readerOf(
  parts: FindParts,
  of: {
    readonly binding: Binding;
    readonly sets: Wanted["sets"];
    readonly signal: AbortSignal;
  },
): Promise<OpenedImage> {
  const { stream, reference: where } = of.binding;
  const pause = (): Promise<void> => {
    of.signal.throwIfAborted();
    return setImmediate();
  };
  const { size: sizeBytes } = stream;
  const file = { sizeBytes, where, pause };
  if (stream.format === "bootstrap") {
    addBlocks(of.sets, { device: 0, offset: 0, length: sizeBytes });
    const path = join(parts.bootstrapDirectory, stream.digest.slice("sha256:".length));
    const readAt: ReadAt = (offset, length) => readFileAt(path, offset, length);
    const head = await readAt(0, BOOTSTRAP_HEAD_BYTES);
    const { rootNid, metaBlock, deviceBlocks } = parseBootstrapHead(head, sizeBytes, where);
    const reader = new ErofsReader({ ...file, readAt, metaBlock, deviceBlocks });
    return { reader, rootNid, places: undefined };
  }
  const fetchAt = await sourceReader(parts, stream, of.signal);
  const readAt: ReadAt = (offset, length) => {
    addBlocks(of.sets, { device: 0, offset, length });
    return fetchAt(offset, length);
  };
  return rawReader(file, readAt);
}

async function rawReader(
  file: Pick<ErofsFile, "sizeBytes" | "where" | "pause">,
  readAt: ReadAt,
): Promise<OpenedImage> {
  const { where, sizeBytes } = file;
  const head = await readAt(0, Math.min(SUPERBLOCK_HEAD_BYTES, sizeBytes));
  const superblock = parseSuperblock(head, where);
  if (superblock.wideBlocks) {
    const detail = "its block numbers have 48 bits: prefetch all of it, or a trace";
    throw new DaemonError({ code: "image_unsupported", where, detail });
  }
  const places = metadataPlaces(head, superblock, where);
  const { rootNid, metaBlock } = places;
  const deviceBlocks = Array.from({ length: superblock.deviceCount }, () => 0);
  const reader = new ErofsReader({ ...file, readAt, metaBlock, deviceBlocks });
  return { reader, rootNid, places };
}

/** Bytes of a raw stream, as its source has them; pieces are kept, since inodes lie close together. */
async function sourceReader(
  { openStream, nowMs }: FindParts,
  record: StreamRecord,
  signal: AbortSignal,
): Promise<ReadAt> {
  const stream = await openStream(record);
  const pieces = new Map<number, Uint8Array>();
  const pieceAt = async (offset: number): Promise<Uint8Array> => {
    const known = pieces.get(offset);
    if (known !== undefined) return known;
    const bytes = new Uint8Array(Math.min(PIECE_BYTES, record.size - offset));
    let at = 0;
    const take = (piece: Uint8Array): void => {
      bytes.set(piece, at);
      at += piece.byteLength;
    };
    const options = { signal, deadlineMs: nowMs() + FETCH_LIMIT_MS, urgency: "prefetch" } as const;
    await stream.fetch({ offset, length: bytes.length }, take, options);
    for (const oldest of pieces.keys()) {
      if (pieces.size < PIECES_MAX) break;
      pieces.delete(oldest);
    }
    pieces.set(offset, bytes);
    return bytes;
  };
  return async (offset, length) => {
    const bytes = new Uint8Array(Math.max(0, Math.min(length, record.size - offset)));
    for (let at = 0; at < bytes.length; ) {
      const start = alignDown(offset + at, PIECE_BYTES);
      const piece = await pieceAt(start);
      const part = piece.subarray(offset + at - start, offset + bytes.length - start);
      bytes.set(part, at);
      at += part.length;
    }
    return bytes;
  };
}

// SPDX-License-Identifier: Apache-2.0
// Decodes a unit off the event loop and verifies every piece of it before anyone may write it.
// zstd, lz4 and deflate are the system's libraries, behind the addon; hashes are computed here,
// at most 1 MiB between two turns of the event loop.

import { createHash } from "node:crypto";
import { availableParallelism } from "node:os";
import { DaemonError, asDaemonError } from "../errors.ts";
import type { Digester, Piece, Unit } from "../image/chunk-map.ts";
import type { Clock } from "../platform/clock.ts";
import type { DecodeJob, Native } from "../platform/native.ts";
import { BLOCK_BYTES, MIB } from "../units.ts";
import { DecodeBatches } from "./decode-batches.ts";

/** Decodes a unit's stored bytes and verifies each piece at its place in `into`, zeros behind it. */
export type DecodeUnit = (
  unit: Unit,
  stored: Uint8Array,
  into: { readonly bytes: Uint8Array; readonly offset: number },
) => Promise<void>;

interface Hasher {
  update(bytes: Uint8Array): unknown;
  digest(): Uint8Array;
}

export interface DecoderParts {
  readonly native: Pick<Native, "decode" | "decodeMany">;
  /** Gives other work its turn. */
  readonly nextTurn: () => Promise<void>;
  /** Told how long each unit took to be decoded, and to be verified, by this clock. */
  readonly timed?: {
    readonly clock: Clock;
    phase(phase: "decode" | "verify", elapsedMs: number): void;
  };
}

export type Decoder = (stream: {
  readonly digester: Digester;
  /** The blob, in faults. */
  readonly blob: string;
  readonly where: string;
}) => DecodeUnit;

/**
 * Loads what it needs, and sees that it works: a hash that is not there, or not right, would look
 * like a damaged image at every read. Fault: addon_missing.
 * Faults of the decoders it makes: blob_truncated, digest_mismatch.
 */
export async function createDecoder(parts: DecoderParts): Promise<Decoder> {
  const { Blake3Hasher } = await import("@napi-rs/blake-hash");
  const makeHasher: Record<Digester, () => Hasher> = {
    sha256: () => createHash("sha256"),
    blake3: () => {
      const hasher = new Blake3Hasher();
      return {
        update: (bytes) => hasher.update(bytes),
        digest: () => hasher.digestBuffer(),
      };
    },
  };
  checkHashers(makeHasher);
  const hashing = new HashingTurns(parts.nextTurn);
  const nowMs = (): number => parts.timed?.clock.nowMs() ?? 0;
  const batches = new DecodeBatches(parts.native, availableParallelism());
  return ({ digester, blob, where }) =>
    async (unit, stored, into) => {
      const fromMs = nowMs();
      const needsDecoding = !isInPlace(unit, stored, into);
      try {
        if (needsDecoding) await batches.decode(jobOf(unit, stored, into));
      } catch (error) {
        const { fault } = asDaemonError(error);
        const isDamage = fault.code === "syscall_failed" && fault.errnoName === "EBADMSG";
        throw isDamage ? undecodable(unit, { blob, where }) : error;
      }
      const decodedMs = nowMs();
      if (needsDecoding) parts.timed?.phase("decode", decodedMs - fromMs);
      for (const piece of unit.pieces) {
        const at = piece.offset - into.offset;
        const bytes = into.bytes.subarray(at, at + piece.length);
        const actual = await hash(makeHasher[digester](), bytes, hashing);
        if (!isEqual(actual, piece.digest)) throw mismatch(piece, actual, { blob, where });
      }
      parts.timed?.phase("verify", nowMs() - decodedMs);
    };
}

/**
 * At most 1 MiB is hashed between two turns of the event loop, however small the pieces are and
 * however many units are decoded at the same moment.
 */
class HashingTurns {
  readonly #nextTurn: () => Promise<void>;
  #hashed = 0;
  #turn: Promise<void> | undefined;

  constructor(nextTurn: () => Promise<void>) {
    this.#nextTurn = nextTurn;
  }

  /** Resolves when `bytes` more may be hashed. */
  async room(bytes: number): Promise<void> {
    while (this.#hashed > 0 && this.#hashed + bytes > MIB) {
      this.#turn ??= this.#nextTurn().then(() => {
        this.#hashed = 0;
        this.#turn = undefined;
      });
      await this.#turn;
    }
    this.#hashed += bytes;
  }
}

function checkHashers(makeHasher: Record<Digester, () => Hasher>): void {
  for (const [name, expected] of [
    ["sha256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
    ["blake3", "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"],
  ] as const) {
    let actual: string;
    try {
      actual = Buffer.from(makeHasher[name]().digest()).toString("hex");
    } catch (error) {
      actual = error instanceof Error ? error.message : String(error);
    }
    if (actual === expected) continue;
    const detail = `the ${name} hash does not work on this machine (${actual})`;
    throw new DaemonError({ code: "addon_missing", detail });
  }
}

/** Its stored bytes are its decoded ones, and lie where those belong. */
function isInPlace(
  { codec, decodedBytes, pieces }: Unit,
  stored: Uint8Array,
  into: { readonly bytes: Uint8Array; readonly offset: number },
): boolean {
  const [piece, second] = pieces;
  if (codec !== "none" || piece === undefined || second !== undefined) return false;
  const target = into.bytes.byteOffset + piece.offset - into.offset;
  const isSame = stored.buffer === into.bytes.buffer && stored.byteOffset === target;
  const isWhole = piece.from === 0 && piece.length === stored.length;
  return isSame && isWhole && decodedBytes === stored.length && piece.length % BLOCK_BYTES === 0;
}

function jobOf(
  unit: Unit,
  stored: Uint8Array,
  into: { readonly bytes: Uint8Array; readonly offset: number },
): DecodeJob {
  const pieces = new Uint32Array(3 * unit.pieces.length);
  for (const [index, { from, length, offset }] of unit.pieces.entries()) {
    pieces.set([from, length, offset - into.offset], 3 * index);
  }
  return {
    codec: unit.codec,
    source: stored,
    sourceOffset: 0,
    sourceLength: stored.length,
    decodedBytes: unit.decodedBytes,
    start: unit.start,
    target: into.bytes,
    pieces,
  };
}

async function hash(hasher: Hasher, bytes: Uint8Array, hashing: HashingTurns): Promise<Uint8Array> {
  for (let at = 0; at < bytes.length; at += MIB) {
    const part = bytes.subarray(at, at + MIB);
    await hashing.room(part.length);
    hasher.update(part);
  }
  return hasher.digest();
}

function isEqual(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

interface Named {
  readonly blob: string;
  readonly where: string;
}

function undecodable({ stored, codec }: Unit, { blob, where }: Named): DaemonError {
  const detail = `its ${stored.length} bytes at ${stored.offset} are not ${codec} data of the length its chunk table says`;
  return new DaemonError({ code: "blob_truncated", where, digest: blob, detail });
}

function mismatch(piece: Piece, actual: Uint8Array, { blob, where }: Named): DaemonError {
  const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
  return new DaemonError({
    code: "digest_mismatch",
    where: `${where}, chunk at ${piece.offset} of ${blob}`,
    expected: hex(piece.digest),
    actual: hex(actual),
  });
}

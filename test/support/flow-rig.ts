// SPDX-License-Identifier: Apache-2.0
// An engine on a fake kernel, a scripted source and a clock that stands still.

import { createHash } from "node:crypto";
import type { DaemonError } from "../../src/errors.ts";
import { Engine } from "../../src/flow/engine.ts";
import type { FlowObserver } from "../../src/flow/flow-observer.ts";
import type { FlowLimits, Stream } from "../../src/flow/stream.ts";
import { rawStream } from "../../src/flow/streams.ts";
import type { SizedBlobLocation } from "../../src/source/source.ts";
import { BLOCK_BYTES, type Digest, type Extent, isDigest } from "../../src/units.ts";
import { FakeClock } from "./fake-clock.ts";
import { FakeObject, FakeRead } from "./fake-kernel.ts";
import { PoisonedSlabPool } from "./poisoned-slabs.ts";
import { QuietLog } from "./quiet-log.ts";
import { ScriptedSource } from "./scripted-source.ts";
import { turns } from "./turns.ts";

export const LIMITS: FlowLimits = {
  windowBytes: 8 * BLOCK_BYTES,
  windowBytesMax: 32 * BLOCK_BYTES,
  fillsNeighbours: false,
  opensSpares: false,
  requestsPerHost: 8,
  readTimeoutMs: 10_000,
};
/** How long a link must be looked at to be known. */
const LEARN_MS = 50;
const ORIGIN = { kind: "registry", host: "registry.example", repository: "app" } as const;

export interface RigOptions {
  readonly limits?: Partial<FlowLimits>;
  readonly slabBlocks?: number;
  readonly slabsMax?: number;
  readonly observe?: FlowObserver;
}

export class FlowRig {
  readonly clock = new FakeClock();
  readonly log = new QuietLog();
  readonly source = new ScriptedSource();
  readonly slabs: PoisonedSlabPool;
  readonly engine: Engine;
  readonly fillFailures: { keys: readonly string[]; error: DaemonError }[] = [];
  #nextId = 1;

  constructor(options: RigOptions = {}) {
    this.slabs = new PoisonedSlabPool({
      slabBytes: (options.slabBlocks ?? 8) * BLOCK_BYTES,
      slabsMax: options.slabsMax ?? 4,
    });
    this.engine = new Engine({
      clock: this.clock,
      log: this.log,
      slabs: this.slabs,
      limits: { ...LIMITS, ...options.limits },
      observe: options.observe,
      onFillFailure: (keys, error) => {
        this.fillFailures.push({ keys, error });
      },
    });
  }

  /** A blob of `bytes` in the source. */
  blob(bytes: Uint8Array, host: string = ORIGIN.host): SizedBlobLocation {
    const digest = digestOf(bytes);
    this.source.put(digest, bytes);
    return { origin: { ...ORIGIN, host }, digest, size: bytes.length };
  }

  stream(blob: SizedBlobLocation): Stream {
    return rawStream(blob, this.source);
  }

  /** Opens an object on `blob`; `prepare` may set the fake up before the engine sees it. */
  async open(blob: SizedBlobLocation, prepare?: (object: FakeObject) => void): Promise<FakeObject> {
    const object = this.object(blob.size);
    prepare?.(object);
    this.engine.serve(this.stream(blob), object);
    await turns();
    return object;
  }

  object(sizeBytes: number): FakeObject {
    const id = this.#nextId++;
    return new FakeObject({ id, cookieKey: `key-${id}`, sizeBytes });
  }

  objectOf(parts: { cookieKey: string; volumeKey: string; sizeBytes: number }): FakeObject {
    return new FakeObject({ id: this.#nextId++, ...parts });
  }

  /** A READ of blocks [first, end). */
  read(object: FakeObject, first: number, end: number): FakeRead {
    const read = new FakeRead(object, blocks(first, end));
    this.engine.read(read);
    return read;
  }

  /** Every fetch so far, as urgency and blocks: `demand 2-10`. Stored bytes are told as they are. */
  get asked(): string[] {
    return this.source.fetches.map(({ extent, options: { urgency } }) => {
      const isBlocks = extent.offset % BLOCK_BYTES === 0;
      const [unit, at] = isBlocks ? [BLOCK_BYTES, ""] : [1, "bytes "];
      const end = Math.ceil((extent.offset + extent.length) / unit);
      return `${urgency} ${at}${extent.offset / unit}-${end}`;
    });
  }

  /** Makes the link known, with a blob of its own: 20 ms to the first byte, then so much. */
  async measureLink(blocksPerMs: number): Promise<void> {
    for (let ms = 0; ms < LEARN_MS; ms += 10) {
      const object = await this.open(
        this.blob(patternBytes((1 + 10 * blocksPerMs) * BLOCK_BYTES, 99)),
      );
      this.read(object, 0, 1);
      await this.clock.advance(20);
      const [fetch] = this.source.open;
      fetch?.give(BLOCK_BYTES);
      await this.clock.advance(10);
      fetch?.finish();
      await turns();
      this.close(object);
      await turns();
    }
    this.source.fetches.length = 0;
  }

  /** Gives every fetch its bytes and lets every write end, until nothing is under way. */
  async drain(...objects: readonly FakeObject[]): Promise<void> {
    await turns();
    const writes = (): number => objects.reduce((sum, one) => sum + one.writes.length, 0);
    for (let round = 0; round < 200 && this.source.open.length + writes() > 0; round += 1) {
      for (const fetch of this.source.open) fetch.finish();
      for (const object of objects) for (const write of object.writes.splice(0)) write.finish();
      await turns();
    }
  }

  close(object: FakeObject): void {
    object.closed = true;
    this.engine.closed(object);
  }
}

export function blocks(first: number, end: number): Extent {
  return { offset: first * BLOCK_BYTES, length: (end - first) * BLOCK_BYTES };
}

export function digestOf(bytes: Uint8Array): Digest {
  return asDigest(createHash("sha256").update(bytes).digest("hex"));
}

/** The digest with these 64 hex digits. */
export function asDigest(hex: string): Digest {
  const text = `sha256:${hex}`;
  if (!isDigest(text)) throw new Error(`${hex} is not 64 hex digits`);
  return text;
}

/** Bytes in which no two blocks are alike and none is zero. */
export function patternBytes(length: number, salt = 1): Uint8Array {
  const known = patterns.get(salt);
  if (known !== undefined && known.length >= length) return known.slice(0, length);
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i += 1) bytes[i] = 1 + ((i * 31 + (i >>> 12) * 7 + salt * 13) % 250);
  patterns.set(salt, bytes);
  return bytes.slice();
}

/** The longest made so far, by salt: simulations make thousands. */
const patterns = new Map<number, Uint8Array>();

/** Compared by memcmp: expect(...).toEqual takes a second for a few blocks. */
export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

// SPDX-License-Identifier: Apache-2.0
// A node of the bench: the daemon's registry client beside one peer (or none), every byte of which
// is compared with the blob.

import { systemClock as clock } from "../../../src/platform/clock.ts";
import { createRegistrySource } from "../../../src/source/registry/registry-source.ts";
import type { Source, Urgency } from "../../../src/source/source.ts";
import { type Extent, MIB } from "../../../src/units.ts";
import type { Peer } from "./network.ts";
import type { OriginBlob } from "./origin.ts";

const DEADLINE_MS = 10_000;
const READERS_AHEAD = 2;
/** What a reader waits for at the beginning of a file. */
const FIRST_BYTES = MIB;

export interface ReadResult {
  readonly firstByteMs: number;
  readonly totalMs: number;
  readonly isRight: boolean;
}

export class BenchNode {
  readonly source: Source;
  readonly counts = new Map<string, number>();

  constructor(peer: Peer | undefined) {
    const count = (what: string): void => {
      this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
    };
    this.source = createRegistrySource({
      clock,
      random: Math.random,
      options: { attemptsMax: 20, connectTimeoutMs: 1_000, headersTimeoutMs: 5_000 },
      peers: peer && {
        proxy: {
          url: peer.proxyUrl,
          pingUrl: peer.healthUrl,
          fallback: true,
          checkIntervalMs: 1_000,
        },
        hosts: [],
      },
      observe: {
        peerRace: (_, event) => count(`race ${event}`),
        peerFailure: (_, cause) => count(`peers ${cause}`),
        hedge: (_, event) => count(`hedge ${event}`),
        breaker: (_, state) => count(`breaker ${state}`),
      },
    });
  }

  async read(blob: OriginBlob, extent: Extent, urgency: Urgency): Promise<ReadResult> {
    const startMs = clock.nowMs();
    let firstByteMs = 0;
    let at = extent.offset;
    let isRight = true;
    const check = (piece: Uint8Array): void => {
      if (at === extent.offset) firstByteMs = clock.nowMs() - startMs;
      const wanted = blob.bytes.subarray(at, at + piece.length);
      isRight &&= Buffer.compare(piece, wanted) === 0;
      at += piece.length;
    };
    await this.source.readRange(blob.location, extent, check, {
      signal: new AbortController().signal,
      deadlineMs: startMs + DEADLINE_MS,
      urgency,
    });
    const isWhole = at === extent.offset + extent.length;
    return { firstByteMs, totalMs: clock.nowMs() - startMs, isRight: isRight && isWhole };
  }

  /** From begin to end as a sequential reader makes the daemon do it; false: a byte was wrong. */
  async readAll(blob: OriginBlob): Promise<boolean> {
    const { size } = blob.location;
    const results = [await this.read(blob, { offset: 0, length: FIRST_BYTES }, "demand")];
    const step = this.source.rangeHint?.(blob.location.origin)?.preferBytes ?? 4 * MIB;
    let next = 0;
    const readOn = async (): Promise<void> => {
      while (next < size) {
        const offset = Math.max(next, FIRST_BYTES);
        const end = Math.min(next + step, size);
        next = end;
        results.push(await this.read(blob, { offset, length: end - offset }, "ahead"));
      }
    };
    await Promise.all(Array.from({ length: READERS_AHEAD }, readOn));
    return results.every(({ isRight }) => isRight);
  }
}

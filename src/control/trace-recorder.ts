// SPDX-License-Identifier: Apache-2.0
// Traces of what readers ask for, for whoever listens on the control socket. Nobody who reads
// waits for it: lines that are not taken in time are dropped, and their number is told.

import { DaemonError } from "../errors.ts";
import type { Engine } from "../flow/engine.ts";
import type { Clock } from "../platform/clock.ts";
import {
  TRACE_READS_MAX,
  TRACE_VERSION,
  type TraceImage,
  type TraceLine,
} from "../image/trace-format.ts";

/** What a trace is to be of. */
export interface TraceWish {
  readonly seconds?: number | undefined;
  /** Cookie keys or digests of streams; none: all. */
  readonly keys: readonly string[];
  /** The image whose streams the keys are. */
  readonly image?: TraceImage | undefined;
}

const TRACES_MAX = 4;
/** Of lines that wait to be sent, for each trace: some 9,000 READs. */
const WAITING_BYTES_MAX = 512 * 1024;
const PIECE_BYTES = 16 * 1024;

export interface TraceParts {
  readonly engine: Pick<Engine, "readObserver">;
  readonly clock: Clock;
  readonly version: string;
  readonly unixMs: () => number;
}

type Observed = Parameters<NonNullable<Engine["readObserver"]>>;

export class TraceRecorder {
  readonly #parts: TraceParts;
  readonly #open = new Set<OpenTrace>();

  constructor(parts: TraceParts) {
    this.#parts = parts;
  }

  get openCount(): number {
    return this.#open.size;
  }

  /** Pieces of a trace until its time is up or `signal` aborts. Fault: request_invalid. */
  record(wish: TraceWish, signal: AbortSignal): AsyncGenerator<string, void> {
    const { engine, clock, version, unixMs } = this.#parts;
    if (this.#open.size >= TRACES_MAX) {
      const detail = `${TRACES_MAX} traces are being recorded already`;
      throw new DaemonError({ code: "request_invalid", field: "trace", detail });
    }
    const startedAt = new Date(unixMs()).toISOString();
    const trace = new OpenTrace(wish.keys, clock);
    const { image } = wish;
    const of = image === undefined ? {} : { image };
    trace.put({ erofsdTrace: TRACE_VERSION, startedAt, version, ...of });
    this.#open.add(trace);
    engine.readObserver = (...observed) => {
      let isRecorded = false;
      for (const each of this.#open) if (each.saw(...observed)) isRecorded = true;
      return isRecorded;
    };
    // However it ends: nothing is observed for it from then on.
    const close = (why: "time" | "stopping"): void => {
      cancelTimer?.();
      signal.removeEventListener("abort", stop);
      trace.end(why);
      this.#open.delete(trace);
      if (this.#open.size === 0) engine.readObserver = undefined;
    };
    const stop = (): void => {
      close("stopping");
    };
    const cancelTimer =
      wish.seconds === undefined
        ? undefined
        : clock.after(wish.seconds * 1000, () => {
            close("time");
          });
    signal.addEventListener("abort", stop, { once: true });
    if (signal.aborted) stop();
    return pieces(trace, stop);
  }
}

async function* pieces(trace: OpenTrace, close: () => void): AsyncGenerator<string, void> {
  try {
    for (;;) {
      const piece = await trace.next();
      if (piece === undefined) return;
      yield piece;
    }
  } finally {
    close();
  }
}

class OpenTrace {
  readonly #keys: readonly string[];
  readonly #clock: Clock;
  readonly #startMs: number;
  readonly #streams = new Map<string, number>();
  #lines: string[] = [];
  #waitingBytes = 0;
  #reads = 0;
  #dropped = 0;
  #droppedBefore = 0;
  #isOver = false;
  #wake: (() => void) | undefined;

  /** No keys: all of them. */
  constructor(keys: readonly string[], clock: Clock) {
    this.#keys = keys;
    this.#clock = clock;
    this.#startMs = clock.nowMs();
  }

  /** True when the read is one of those that it is of. */
  saw(stream: Observed[0], { object, extent }: Observed[1]): boolean {
    if (this.#isOver || !this.#isWanted(object.cookieKey, stream.digest)) return false;
    if (this.#waitingBytes > WAITING_BYTES_MAX || this.#reads >= TRACE_READS_MAX) {
      this.#dropped += 1;
      return true;
    }
    this.#tellDropped();
    let number = this.#streams.get(stream.key);
    if (number === undefined) {
      number = this.#streams.size;
      this.#streams.set(stream.key, number);
      const { digest, map } = stream;
      this.put({ stream: number, digest, key: object.cookieKey, sizeBytes: map.sizeBytes });
    }
    this.#reads += 1;
    const ms = Math.round((this.#clock.nowMs() - this.#startMs) * 10) / 10;
    this.put({ ms, stream: number, offset: extent.offset, length: extent.length });
    return true;
  }

  put(line: TraceLine): void {
    const text = `${JSON.stringify(line)}\n`;
    this.#lines.push(text);
    this.#waitingBytes += text.length;
    this.#wake?.();
  }

  end(why: "time" | "stopping"): void {
    if (this.#isOver) return;
    this.#tellDropped();
    this.#isOver = true;
    this.put({ end: why, reads: this.#reads, dropped: this.#dropped });
  }

  /** The next lines; undefined when there are no more. */
  async next(): Promise<string | undefined> {
    while (this.#lines.length === 0) {
      if (this.#isOver) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
    let bytes = 0;
    let count = 0;
    for (const { length } of this.#lines) {
      if (count > 0 && bytes + length > PIECE_BYTES) break;
      bytes += length;
      count += 1;
    }
    this.#waitingBytes -= bytes;
    return this.#lines.splice(0, count).join("");
  }

  #isWanted(cookieKey: string, digest: string): boolean {
    const keys = this.#keys;
    return keys.length === 0 || keys.includes(cookieKey) || keys.includes(digest);
  }

  #tellDropped(): void {
    const dropped = this.#dropped - this.#droppedBefore;
    this.#droppedBefore = this.#dropped;
    if (dropped > 0) this.put({ dropped });
  }
}

// SPDX-License-Identifier: Apache-2.0
// What a flight is made of: a range of a stream, for whom and where from.

import type { DecodeUnit } from "../decoder/unit-decoder.ts";
import type { DaemonError } from "../errors.ts";
import type { Unit } from "../image/chunk-map.ts";
import type { Clock } from "../platform/clock.ts";
import type { FetchOptions } from "../source/source.ts";
import type { Extent, Urgency } from "../units.ts";
import type { FetchQueue } from "./fetch-queue.ts";
import type { LinkMeter } from "./link-meter.ts";
import type { OpenObject } from "./open-object.ts";

/** Fetches stored bytes of one stream, in order, each once. */
export type FetchRange = (
  stored: Extent,
  onPiece: (piece: Uint8Array) => void,
  options: Omit<FetchOptions, "attemptsMax">,
) => Promise<void>;

export interface FlightParts {
  /** Whole units, and so whole blocks. */
  readonly extent: Extent;
  /** The stored bytes; in a raw stream shorter than `extent` at its tail, where zeros follow. */
  readonly stored: Extent;
  /** What is decoded and verified whole, in order; undefined for a raw stream. */
  readonly units: readonly Unit[] | undefined;
  readonly decode: DecodeUnit;
  readonly fetch: FetchRange;
  readonly queue: FetchQueue;
  readonly meter: LinkMeter;
  readonly clock: Clock;
  /** The host it comes from, as the queue and the meter know it. */
  readonly host: string;
  readonly deadlineMs: number;
  readonly urgency: Urgency;
  /** For whom: fetches in the air are shared out between groups. */
  readonly group: object;
  /** As in planner/pick-next.ts, by what is known of the host now. */
  readonly airBytes: () => number;
  /** The bytes were wrong once: they are to come another way. */
  readonly isSecondTry: boolean;
  readonly isFirm: boolean;
  /** As in FetchOptions. */
  readonly next: number;
  /** Of a raw stream: given all bytes once they have arrived, before any is written; throws to refuse. */
  readonly verify?: ((bytes: Uint8Array) => void) | undefined;
  /** Cancelled, failed or over: nobody may join it any more. Called once or more often. */
  readonly onUnjoinable: () => void;
  /** A part that will never arrive, or could not be written to these objects. */
  readonly onFailure: (rest: Extent, error: DaemonError, objects: readonly OpenObject[]) => void;
}

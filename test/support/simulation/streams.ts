// SPDX-License-Identifier: Apache-2.0
// The streams of a simulation: raw ones, and streams of units, as the engine is given them.

import { DaemonError } from "../../../src/errors.ts";
import type { Stream } from "../../../src/flow/stream.ts";
import { streamKey } from "../../../src/flow/streams.ts";
import type { SizedBlobLocation } from "../../../src/source/source.ts";
import type { StreamRecord } from "../../../src/state/bindings.ts";
import { BLOCK_BYTES, type Extent, alignUp } from "../../../src/units.ts";
import { type FlowRig, blocks, patternBytes } from "../flow-rig.ts";
import type { ScriptedFetch } from "../scripted-source.ts";
import { SimulatedUnits } from "./units.ts";
import type { StreamShape } from "./world.ts";

export interface SimulatedStream {
  readonly host: string;
  readonly record: StreamRecord;
  readonly blob: SizedBlobLocation;
  /** What readers must see, in whole blocks. */
  readonly bytes: Uint8Array;
  /** Undefined for a raw stream. */
  readonly map: SimulatedUnits | undefined;
  /** Made anew for every OPEN, as the daemon does. */
  make(): Stream;
}

export function rawSimulated(
  rig: FlowRig,
  { sizeBytes, salt, host }: Pick<StreamShape, "sizeBytes" | "salt" | "host">,
): SimulatedStream {
  const content = patternBytes(sizeBytes, salt);
  const bytes = new Uint8Array(alignUp(sizeBytes, BLOCK_BYTES));
  bytes.set(content);
  const blob = rig.blob(content, host);
  return { host, record: blob, blob, bytes, map: undefined, make: () => rig.stream(blob) };
}

export function unitsSimulated(
  rig: FlowRig,
  { map, host, seed }: { map: SimulatedUnits; host: string; seed: number },
): SimulatedStream {
  const blob = rig.blob(map.storedBytes, host);
  const record: StreamRecord = { ...blob, size: map.sizeBytes, format: "rafs" };
  const { clock, slabs, source } = rig;
  const decode = map.decoder({ clock, slabs, seed });
  const key = streamKey(record);
  const stream = { key, digest: blob.digest, map, host, where: `${host}/app`, decode };
  const fetch: Stream["fetch"] = (stored, onPiece, options) =>
    source.readRange(blob, stored, onPiece, options);
  return { host, record, blob, bytes: map.bytes, map, make: () => ({ ...stream, fetch }) };
}

export function simulated(rig: FlowRig, shape: StreamShape, seed: number): SimulatedStream {
  const { units, salt, host } = shape;
  if (units === undefined) return rawSimulated(rig, shape);
  // A copy: a schedule may change which units are trusted.
  const map = new SimulatedUnits(
    units.map((unit) => ({ ...unit })),
    salt,
  );
  return unitsSimulated(rig, { map, host, seed: seed + salt });
}

/** The blocks of a raw stream, the units of another, that a fetch brings; undefined: it cuts a unit. */
export function partsOf(
  { map }: SimulatedStream,
  { extent }: Pick<ScriptedFetch, "extent">,
): Extent[] | undefined {
  if (map !== undefined) return map.storedWithin(extent)?.map((unit) => unit.extent);
  const { offset, length } = extent;
  const first = offset / BLOCK_BYTES;
  const count = Math.ceil(length / BLOCK_BYTES);
  return Array.from({ length: count }, (_, index) => blocks(first + index, first + index + 1));
}

/** What its source fails with. */
export function broken(): DaemonError {
  return new DaemonError({ code: "registry_unreachable", host: "r", detail: "down" });
}

/** The same, when its bytes end too early. */
export function truncated(): DaemonError {
  return new DaemonError({ code: "blob_truncated", where: "r", digest: "d", detail: "short" });
}

/** The same, when its time is over. */
export function late(): DaemonError {
  return new DaemonError({ code: "registry_timeout", host: "r", detail: "late" });
}

/** What its cache fails with. */
export function noSpace(): DaemonError {
  return new DaemonError({ code: "cache_no_space", key: "k", detail: "full" });
}

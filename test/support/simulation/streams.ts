// SPDX-License-Identifier: Apache-2.0
// The streams of a simulation: raw ones, and streams of units, as the engine is given them.

import { DaemonError } from "../../src/errors.ts";
import type { Stream } from "../../src/flow/stream-flow.ts";
import { streamKey } from "../../src/flow/streams.ts";
import type { SizedBlobLocation } from "../../src/source/source.ts";
import type { StreamRecord } from "../../src/state/bindings.ts";
import { BLOCK_BYTES, type Extent, alignUp } from "../../src/units.ts";
import { type FlowRig, patternBytes } from "./flow-rig.ts";
import type { ScriptedFetch } from "./scripted-source.ts";
import type { SeededRandom } from "./seeded-random.ts";
import { type PlantedFault, SimulatedUnits, drawUnits } from "./simulated-units.ts";

export interface SimulatedStream {
  readonly record: StreamRecord;
  readonly blob: SizedBlobLocation;
  /** What readers must see, in whole blocks. */
  readonly bytes: Uint8Array;
  /** Undefined for a raw stream. */
  readonly map: SimulatedUnits | undefined;
  /** Made anew for every OPEN, as the daemon does. */
  make(): Stream;
}

export function rawSimulated(rig: FlowRig, random: SeededRandom, salt: number): SimulatedStream {
  const size = random.between(1, 40) * BLOCK_BYTES - random.between(0, 1) * 1000;
  const content = patternBytes(size, salt);
  const bytes = new Uint8Array(alignUp(size, BLOCK_BYTES));
  bytes.set(content);
  const blob = rig.blob(content);
  return { record: blob, blob, bytes, map: undefined, make: () => rig.stream(blob) };
}

export function unitsSimulated(
  rig: FlowRig,
  random: SeededRandom,
  of: { salt: number; planted?: PlantedFault | undefined; map?: SimulatedUnits },
): SimulatedStream {
  const { salt, planted, map = new SimulatedUnits(drawUnits(random), salt) } = of;
  const blob = rig.blob(map.storedBytes);
  const record: StreamRecord = { ...blob, size: map.sizeBytes, format: "rafs" };
  const { clock, slabs, source } = rig;
  const decode = map.decoder({ clock, slabs, random, planted });
  const stream = {
    key: streamKey(record),
    digest: blob.digest,
    map,
    host: "registry.example",
    where: "registry.example/app",
    decode,
  };
  const fetch: Stream["fetch"] = (stored, onPiece, options) =>
    source.readRange(blob, stored, onPiece, options);
  return { record, blob, bytes: map.bytes, map, make: () => ({ ...stream, fetch }) };
}

/** Parts of the stream that a fetch brings, each needed for its own sake; undefined: it cuts a unit. */
export function partsOf(
  { map }: SimulatedStream,
  { extent }: Pick<ScriptedFetch, "extent">,
): Extent[] | undefined {
  return map === undefined ? [extent] : map.storedWithin(extent)?.map((unit) => unit.extent);
}

/** What its source fails with. */
export function broken(): DaemonError {
  return new DaemonError({ code: "registry_unreachable", host: "r", detail: "down" });
}

/** What its cache fails with. */
export function noSpace(): DaemonError {
  return new DaemonError({ code: "cache_no_space", key: "k", detail: "full" });
}

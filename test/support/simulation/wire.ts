// SPDX-License-Identifier: Apache-2.0
// The source's side of a schedule: links that carry bytes at their pace, and everything that a
// registry may do to a fetch.

import { BLOCK_BYTES, type Extent, extentEnd } from "../../../src/units.ts";
import type { FlowRig } from "../flow-rig.ts";
import type { ScriptedFetch } from "../scripted-source.ts";
import type { ReaderChecks } from "./reader-checks.ts";
import type { Step } from "./steps.ts";
import { type SimulatedStream, broken, late, truncated } from "./streams.ts";
import type { TurnWatch } from "./turn-watch.ts";
import type { WireChecks } from "./wire-checks.ts";
import type { World } from "./world.ts";

/** So often a link brings something. */
const TICK_MS = 10;

type SourceStep = Extract<Step, { fetch: number }>;

export class SimulatedWire {
  readonly #rig: FlowRig;
  readonly #world: World;
  readonly #streams: readonly SimulatedStream[];
  readonly #readers: ReaderChecks;
  readonly #watch: TurnWatch;
  readonly #beganMs = new Map<ScriptedFetch, number>();

  constructor(of: {
    rig: FlowRig;
    world: World;
    streams: readonly SimulatedStream[];
    readers: ReaderChecks;
    checks: WireChecks;
    watch: TurnWatch;
  }) {
    this.#rig = of.rig;
    this.#world = of.world;
    this.#streams = of.streams;
    this.#readers = of.readers;
    this.#watch = of.watch;
    const { source, clock } = of.rig;
    source.onBegun = (fetch) => {
      this.#beganMs.set(fetch, clock.nowMs());
      of.checks.began(fetch, fetch.blob.origin.host);
    };
  }

  play(step: SourceStep): void {
    const { open } = this.#rig.source;
    const fetch = open[step.fetch % Math.max(1, open.length)];
    if (fetch !== undefined) this.#play(fetch, step);
  }

  #play(fetch: ScriptedFetch, step: SourceStep): void {
    const left = fetch.extent.length - fetch.given;
    switch (step.do) {
      case "give":
        this.#give(fetch, Math.ceil((left * step.share) / 1_000));
        break;
      case "finish":
        this.serve(fetch);
        break;
      case "fail":
        this.#fault(fetch, step.with === "broken" ? "registry_unreachable" : "blob_truncated");
        fetch.fail(step.with === "broken" ? broken() : truncated());
        break;
      case "short":
        if (left > 0) this.#fault(fetch, "internal");
        fetch.end();
        break;
      case "long":
        this.#fault(fetch, "internal");
        fetch.giveBytes(new Uint8Array(left + 1).fill(0x55));
        if (!fetch.ended) fetch.end();
        break;
      case "lie":
        this.#lie(fetch, Math.ceil((left * step.share) / 1_000));
    }
  }

  /** All that is left of it comes, and it ends. */
  serve(fetch: ScriptedFetch): void {
    this.#give(fetch, Infinity);
    fetch.end();
  }

  #give(fetch: ScriptedFetch, bytes: number): void {
    const left = fetch.extent.length - fetch.given;
    if (left > 0 && bytes > 0) fetch.give(Math.min(bytes, left));
  }

  /** A lying registry: survived where there are digests, of units or of the whole. */
  #lie(fetch: ScriptedFetch, length: number): void {
    const stream = this.#streams.find(({ blob }) => blob.digest === fetch.blob.digest);
    if (stream === undefined || length === 0) return;
    const lied: Extent = { offset: fetch.extent.offset + fetch.given, length };
    if (stream.map === undefined) {
      if (fetch.extent.length !== stream.blob.size) return;
      this.#readers.damaged.add(stream);
    } else {
      for (const one of stream.map.all) {
        const { offset, length: bytes } = one.unit.stored;
        if (offset < extentEnd(lied) && lied.offset < offset + bytes)
          this.#readers.damaged.add(one);
      }
    }
    const launch = this.#watch.bySignal(fetch.options.signal)?.launch;
    if (launch !== undefined) launch.lied = true;
    fetch.giveBytes(new Uint8Array(length).fill(0x77));
  }

  /** Fetches whose time is over end as a source ends them. */
  expire(): void {
    for (const fetch of this.#rig.source.open) {
      if (fetch.options.deadlineMs > this.#rig.clock.nowMs()) continue;
      this.#fault(fetch, "registry_timeout");
      fetch.fail(late());
    }
  }

  async flow(which: number, ms: number): Promise<void> {
    const { hosts } = this.#world;
    const link = hosts[which % hosts.length];
    if (link === undefined) return;
    for (let passedMs = 0; passedMs < ms; passedMs += TICK_MS) {
      await this.#rig.clock.advance(TICK_MS);
      this.expire();
      const nowMs = this.#rig.clock.nowMs();
      const there = this.#rig.source.open.filter(
        (fetch) =>
          fetch.blob.origin.host === link.host &&
          nowMs - (this.#beganMs.get(fetch) ?? nowMs) >= link.rttMs,
      );
      const share = Math.ceil((link.bytesPerMs * TICK_MS) / Math.max(1, there.length));
      for (const fetch of there) {
        this.#give(fetch, Math.max(share, BLOCK_BYTES / 2));
        if (fetch.given >= fetch.extent.length) fetch.end();
      }
    }
  }

  #fault({ options }: ScriptedFetch, code: string): void {
    const launch = this.#watch.bySignal(options.signal)?.launch;
    if (launch !== undefined) launch.fault = code;
  }
}

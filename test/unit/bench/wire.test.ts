// SPDX-License-Identifier: Apache-2.0

import { describe, expect, test } from "vitest";
import { Lane, type LinkShape, Wire } from "../../bench/link/wire.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { seededRandom } from "../../support/seeded-random.ts";

const KIB = 1024;
const LINK: LinkShape = {
  roundTripMs: 20,
  bandwidth: 1_024_000,
  connectionBandwidth: 0,
  loss: 0,
};

class Rig {
  readonly clock = new FakeClock();
  readonly wire: Wire;

  constructor(shape: Partial<LinkShape> = {}) {
    this.wire = new Wire({ ...LINK, ...shape }, this.clock, seededRandom(3));
  }

  /** A lane, and when which number of its bytes had arrived; -1 is the end. */
  lane(): { lane: Lane; arrived: [ms: number, bytes: number][] } {
    const arrived: [number, number][] = [];
    let total = 0;
    const startMs = this.clock.nowMs();
    const at = (): number => Math.round(this.clock.nowMs() - startMs);
    const lane = new Lane(
      {
        deliver: (bytes) => {
          total += bytes.byteLength;
          arrived.push([at(), total]);
        },
        end: () => {
          arrived.push([at(), -1]);
        },
      },
      0,
    );
    return { lane, arrived };
  }
}

describe("a wire", () => {
  test("adds its latency once, not to each piece", async () => {
    const rig = new Rig({ bandwidth: 0 });
    const { lane, arrived } = rig.lane();
    for (let n = 0; n < 4; n += 1) rig.wire.push(lane, new Uint8Array(KIB));
    rig.wire.end(lane);
    await rig.clock.advance(20);
    expect(arrived.map(([ms]) => ms)).toEqual([10, 10, 10, 10, 10]);
    expect(arrived.at(-1)).toEqual([10, -1]);
  });

  test("carries no more than its bandwidth, whoever sends", async () => {
    const rig = new Rig();
    const lanes = [rig.lane(), rig.lane()];
    for (const { lane } of lanes) rig.wire.push(lane, new Uint8Array(512 * KIB));
    await rig.clock.advance(1100);
    const last = lanes.map(({ arrived }) => arrived.at(-1));
    expect(last.map((end) => end?.[1])).toEqual([512 * KIB, 512 * KIB]);
    // 1 MiB at 1,024,000 bytes a second, and half a round trip.
    expect(Math.max(...last.map((end) => end?.[0] ?? 0))).toBe(1034);
  });

  test("serves a small message beside a large one without waiting for all of it", async () => {
    const rig = new Rig();
    const [large, small] = [rig.lane(), rig.lane()];
    rig.wire.push(large.lane, new Uint8Array(512 * KIB));
    await rig.clock.advance(5);
    rig.wire.push(small.lane, new Uint8Array(KIB));
    await rig.clock.advance(600);
    expect(small.arrived[0]?.[0]).toBeLessThan(50);
    expect(large.arrived.at(-1)?.[1]).toBe(512 * KIB);
  });

  test("holds one connection to a rate of its own", async () => {
    const rig = new Rig({ connectionBandwidth: 102_400 });
    const { lane, arrived } = rig.lane();
    rig.wire.push(lane, new Uint8Array(100 * KIB));
    await rig.clock.advance(1200);
    const [ms, bytes] = arrived.at(-1) ?? [0, 0];
    expect(bytes).toBe(100 * KIB);
    expect(ms).toBeGreaterThan(800);
    expect(ms).toBeLessThan(1050);
  });

  test("stalls a connection that has lost something, and keeps its order", async () => {
    const rig = new Rig({ loss: 1, bandwidth: 0 });
    const { lane, arrived } = rig.lane();
    rig.wire.push(lane, new Uint8Array(KIB));
    rig.wire.end(lane);
    await rig.clock.advance(400);
    expect(arrived.map(([, bytes]) => bytes)).toEqual([KIB, -1]);
    expect(arrived[0]?.[0]).toBeGreaterThanOrEqual(30);
    expect(rig.wire.losses).toBe(1);
  });

  test("forgets a connection that is gone, and what was on its way", async () => {
    const rig = new Rig();
    const { lane, arrived } = rig.lane();
    rig.wire.push(lane, new Uint8Array(64 * KIB));
    rig.wire.drop(lane);
    await rig.clock.advance(200);
    expect([arrived, rig.clock.pendingCount]).toEqual([[], 0]);
  });
});

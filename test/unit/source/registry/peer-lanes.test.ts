// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import { type LaneFacts, planLanes } from "../../../../src/source/registry/peer-lanes.ts";

const FACTS: LaneFacts = {
  urgency: "demand",
  directMedianMs: 20,
  directLateMs: 40,
  peersMedianMs: undefined,
  peersUnhurriedMs: undefined,
  peersHopeless: false,
  patienceMs: 5_000,
  remainingMs: 30_000,
};

describe("a reader's fetch", () => {
  it("gives peers a start that leaves the registry well within 1.3 times its own time", () => {
    for (const directMedianMs of [10, 20, 50, 100, 1_000]) {
      const { first, delayMs } = planLanes({ ...FACTS, directMedianMs });
      expect(first).toBe("peers");
      expect(delayMs / directMedianMs).toBeLessThanOrEqual(0.15);
      expect(delayMs).toBeGreaterThanOrEqual(1);
    }
  });

  it("gives peers no longer than they need when they have the bytes", () => {
    const far = { ...FACTS, directMedianMs: 100 };
    expect(planLanes({ ...far, peersMedianMs: 1.5 }).delayMs).toBe(3);
    expect(planLanes({ ...far, peersMedianMs: 90 }).delayMs).toBe(15);
  });

  it("asks both almost at once while the registry's time is unknown", () => {
    const plan = planLanes({ ...FACTS, directMedianMs: undefined, directLateMs: undefined });
    expect(plan).toMatchObject({ first: "peers", delayMs: 2 });
  });

  it("asks the registry first when peers hardly ever win, and peers when that is late", () => {
    const plan = planLanes({ ...FACTS, peersHopeless: true });
    expect(plan).toMatchObject({ first: "direct", delayMs: 40 });
  });

  it("leaves a stalled body soon, but not at every hiccup", () => {
    expect(planLanes(FACTS).stallMs).toBe(250);
    expect(planLanes({ ...FACTS, directLateMs: 200 }).stallMs).toBe(800);
    expect(planLanes({ ...FACTS, directLateMs: undefined }).stallMs).toBe(2_000);
  });
});

describe.each(["ahead", "prefetch"] as const)("a fetch %s", (urgency) => {
  it("waits for peers as long as it is told to", () => {
    const plan = planLanes({ ...FACTS, urgency });
    expect(plan).toEqual({ first: "peers", delayMs: 5_000, hurriedMs: 90, stallMs: 5_000 });
  });

  it("leaves the registry half of the time there is", () => {
    const plan = planLanes({ ...FACTS, urgency, remainingMs: 4_000 });
    expect(plan.delayMs).toBe(2_000);
  });

  it("that a reader catches up with is left to peers for as long as they mostly take, and a bit", () => {
    const hurriedMs = (peersUnhurriedMs: number): number =>
      planLanes({ ...FACTS, urgency, peersUnhurriedMs }).hurriedMs;
    expect([1, 20, 100, 190].map(hurriedMs)).toEqual([5, 30, 150, 200]);
    // Ten times what the registry takes is too long to wait for at all.
    expect(hurriedMs(201)).toBe(5);
    const unknown = { ...FACTS, urgency, directMedianMs: undefined };
    expect(planLanes(unknown).hurriedMs).toBe(135);
    expect(planLanes({ ...unknown, remainingMs: 40 }).hurriedMs).toBe(20);
  });

  it("does not mind that peers lose demand races", () => {
    expect(planLanes({ ...FACTS, urgency, peersHopeless: true }).first).toBe("peers");
  });
});

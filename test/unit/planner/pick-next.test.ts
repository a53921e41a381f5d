// SPDX-License-Identifier: Apache-2.0
// Whose turn it is: by urgency, by what a group has in the air, by deadline, by who came first.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Candidate, type TurnLimits, pickNext } from "../../../src/planner/pick-next.ts";
import { MIB, type Urgency } from "../../../src/units.ts";
import { fuzzRuns } from "../../support/fuzz-runs.ts";

const [huge, other, third] = [{ name: "huge" }, { name: "other" }, { name: "third" }];

function one(urgency: Urgency, more: Partial<Candidate> = {}): Candidate {
  const airBytes = 2 * MIB;
  const base = { host: "a", deadlineMs: 1_000, bytes: MIB, hasCome: false, group: huge };
  const { bytes } = { ...base, ...more };
  return { urgency, ...base, airBytes, storedBytes: bytes, ...more };
}

function limits(requestsPerHost = 8): TurnLimits {
  return { requestsPerHost };
}

describe("who goes next", () => {
  test("demand before read-ahead before prefetch, whoever came first", () => {
    const waiting = [one("prefetch"), one("ahead"), one("demand", { deadlineMs: 9_000 })];
    expect(pickNext(waiting, [], limits())).toBe(waiting[2]);
    expect(pickNext(waiting.slice(0, 2), [], limits())).toBe(waiting[1]);
    expect(pickNext(waiting.slice(0, 1), [], limits())).toBe(waiting[0]);
    expect(pickNext([], [], limits())).toBeUndefined();
  });

  test("within a class whoever has the fewest bytes in the air", () => {
    const inAir = [one("demand"), one("ahead"), one("demand", { group: other, bytes: 10 })];
    const waiting = [
      one("demand"),
      one("demand", { group: other }),
      one("demand", { group: third, deadlineMs: 2_000 }),
    ];
    expect(pickNext(waiting, inAir, limits())).toBe(waiting[2]);
    expect(pickNext(waiting.slice(0, 2), inAir, limits())).toBe(waiting[1]);
  });

  test("then the earliest deadline, then who came first", () => {
    const waiting = [
      one("demand", { deadlineMs: 3 }),
      one("demand", { deadlineMs: 2, group: other }),
      one("demand", { deadlineMs: 2, group: third }),
    ];
    expect(pickNext(waiting, [], limits())).toBe(waiting[1]);
  });
});

describe("who may not go", () => {
  test("a host that is busy is passed over, not waited for", () => {
    const inAir = [one("demand"), one("demand")];
    const waiting = [one("demand"), one("prefetch", { host: "b" })];
    expect(pickNext(waiting, inAir, limits(2))).toBe(waiting[1]);
    expect(pickNext(waiting.slice(0, 1), inAir, limits(2))).toBeUndefined();
  });

  test("read-ahead and prefetch leave two of a host's requests for demand", () => {
    const inAir = [one("ahead", { bytes: 1 }), one("prefetch", { bytes: 1 })];
    expect(pickNext([one("ahead", { bytes: 1 })], inAir, limits(4))).toBeUndefined();
    expect(pickNext([one("ahead", { bytes: 1 })], inAir, limits(5))).toBeDefined();
    expect(pickNext([one("demand")], inAir, limits(4))).toBeDefined();
  });

  test("where a host takes one or two requests, one may still be read-ahead", () => {
    expect(pickNext([one("ahead")], [], limits(1))).toBeDefined();
    expect(pickNext([one("ahead")], [one("demand")], limits(2))).toBeDefined();
    expect(pickNext([one("ahead")], [one("ahead")], limits(2))).toBeUndefined();
  });

  test("no more is read ahead while enough is to come for the link to be full", () => {
    const asked = (urgency: Urgency): Candidate[] => [one(urgency, { airBytes: 2_000_000 })];
    const inAir = (bytes: number): Candidate[] => [one("ahead"), one("prefetch", { bytes })];
    expect(pickNext(asked("ahead"), inAir(2_000_000 - MIB), limits())).toBeDefined();
    expect(pickNext(asked("ahead"), inAir(2_000_001 - MIB), limits())).toBeUndefined();
    expect(pickNext(asked("demand"), inAir(99 * MIB), limits())).toBeDefined();
    // Nor behind what a reader waits for: it would share the link with that.
    expect(
      pickNext(asked("ahead"), [one("demand", { bytes: 2_000_001 })], limits()),
    ).toBeUndefined();
  });

  test("no more is read ahead than four times that while it is not written", () => {
    const come = (storedBytes: number): Candidate =>
      one("ahead", { bytes: 0, storedBytes, hasCome: true });
    const most = [come(MIB), come(7 * MIB)];
    expect(pickNext([one("ahead")], most, limits(1))).toBeDefined();
    expect(pickNext([one("ahead")], [...most, come(1)], limits(1))).toBeUndefined();
    expect(pickNext([one("demand")], [...most, come(1)], limits(1))).toBeDefined();
  });

  test("what one host has in the air is no burden to another", () => {
    const inAir = [one("ahead"), one("ahead"), one("demand")];
    expect(pickNext([one("ahead", { host: "b" })], inAir, limits(3))).toBeDefined();
  });
});

test("nobody who may go is of a more urgent class than who is picked, and limits hold", () => {
  const candidate = fc.record({
    host: fc.constantFrom("a", "b"),
    urgency: fc.constantFrom<Urgency>("demand", "ahead", "prefetch"),
    deadlineMs: fc.nat(5),
    bytes: fc.integer({ min: 1, max: 3 * MIB }),
    storedBytes: fc.integer({ min: 1, max: 3 * MIB }),
    hasCome: fc.boolean(),
    group: fc.constantFrom(huge, other, third),
    airBytes: fc.constantFrom(1, 2 * MIB, 16 * MIB),
  });
  const many = fc.array(candidate, { maxLength: 8 });
  fc.assert(
    fc.property(many, many, fc.integer({ min: 1, max: 5 }), (waiting, held, perHost) => {
      const next = pickNext(waiting, held, limits(perHost));
      const isFree = (host: string): boolean =>
        held.filter((there) => there.host === host && !there.hasCome).length < perHost;
      const demand = waiting.filter(({ urgency, host }) => urgency === "demand" && isFree(host));
      if (demand.length > 0) expect(next?.urgency).toBe("demand");
      if (next === undefined) return;
      expect(waiting).toContain(next);
      expect(isFree(next.host)).toBe(true);
      const background = held.filter(
        ({ host, urgency, hasCome }) => host === next.host && !hasCome && urgency !== "demand",
      );
      if (next.urgency !== "demand") {
        expect(background.length).toBeLessThan(Math.max(1, perHost - 2));
      }
    }),
    { numRuns: fuzzRuns(1000) },
  );
});

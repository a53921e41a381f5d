// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import { type Bounds, withBounds } from "../../../src/source/deadline.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { faultFrom } from "../../support/faults.ts";

function boundsOf(clock: FakeClock, fields: Partial<Bounds> = {}): Bounds {
  return { clock, deadlineMs: clock.nowMs() + 500, signals: [], what: "the work", ...fields };
}

const never = (): Promise<never> => new Promise(() => undefined);

describe("bounded work", () => {
  it("gives its result and leaves no timer", async () => {
    const clock = new FakeClock();
    expect(await withBounds(boundsOf(clock), () => Promise.resolve(7))).toBe(7);
    expect(clock.pendingCount).toBe(0);
  });

  it("is given up at the deadline, whether or not it notices", async () => {
    const clock = new FakeClock();
    const work = faultFrom(withBounds(boundsOf(clock), never));
    expect(await clock.runUntil(work)).toEqual({
      code: "deadline_exceeded",
      what: "the work",
      timeoutMs: 500,
    });
    expect(clock.nowMs()).toBe(1_500);
  });

  it("does not begin after the deadline or an abort", async () => {
    const clock = new FakeClock();
    const late = withBounds(boundsOf(clock, { deadlineMs: clock.nowMs() }), () => {
      throw new Error("it began");
    });
    expect(await faultFrom(late)).toMatchObject({ code: "deadline_exceeded", timeoutMs: 0 });
    const signals = [AbortSignal.abort()];
    expect(await faultFrom(withBounds(boundsOf(clock, { signals }), never))).toMatchObject({
      code: "cancelled",
    });
    expect(clock.pendingCount).toBe(0);
  });

  it("follows each of its signals and passes their reason on", async () => {
    for (const place of [0, 1]) {
      const clock = new FakeClock();
      const aborts = [new AbortController(), new AbortController()];
      const signals = aborts.map(({ signal }) => signal);
      let inner: AbortSignal | undefined;
      const work = faultFrom(
        withBounds(boundsOf(clock, { signals }), (signal) => {
          inner = signal;
          return never();
        }),
      );
      aborts[place]?.abort(new DaemonError({ code: "stopping" }));
      expect(await work).toEqual({ code: "stopping" });
      expect(inner?.aborted).toBe(true);
      expect(clock.pendingCount).toBe(0);
    }
  });
});

// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import { DaemonError, type Fault } from "../../../../src/errors.ts";
import {
  type RetryHints,
  type RetryOptions,
  parseRetryAfter,
  withRetries,
} from "../../../../src/source/registry/retry.ts";
import { FakeClock } from "../../../support/fake-clock.ts";
import { faultFrom } from "../../../support/faults.ts";

const UNREACHABLE: Fault = { code: "registry_unreachable", host: "h", detail: "d" };

function optionsOf(clock: FakeClock, fields: Partial<RetryOptions> = {}): RetryOptions {
  return {
    clock,
    random: () => 1 - Number.EPSILON,
    attemptsMax: 4,
    backoffBaseMs: 100,
    backoffCapMs: 3_000,
    deadlineMs: clock.nowMs() + 60_000,
    signal: new AbortController().signal,
    ...fields,
  };
}

/** Fails with each fault in turn, then succeeds; remembers when it was tried. */
function failing(clock: FakeClock, faults: readonly Fault[], retryAfterMs?: number) {
  const triedMs: number[] = [];
  const attempt = (hints: RetryHints): Promise<string> => {
    const fault = faults[triedMs.length];
    triedMs.push(clock.nowMs());
    hints.retryAfterMs = retryAfterMs;
    return fault === undefined ? Promise.resolve("done") : Promise.reject(new DaemonError(fault));
  };
  return { attempt, triedMs };
}

describe("retrying", () => {
  it("waits longer each time, up to the cap", async () => {
    const clock = new FakeClock(0);
    const { attempt, triedMs } = failing(
      clock,
      Array.from({ length: 7 }, () => UNREACHABLE),
    );
    const work = withRetries(optionsOf(clock, { attemptsMax: 8 }), attempt);
    expect(await clock.runUntil(work)).toBe("done");
    const waits = triedMs.slice(1).map((at, index) => Math.round(at - (triedMs[index] ?? 0)));
    expect(waits).toEqual([100, 200, 400, 800, 1600, 3000, 3000]);
    expect(clock.pendingCount).toBe(0);
  });

  it("draws the wait from all of it, so that clients do not come in step", async () => {
    const clock = new FakeClock(0);
    const draws = [0, 0.5];
    const { attempt, triedMs } = failing(clock, [UNREACHABLE, UNREACHABLE]);
    const random = (): number => draws.shift() ?? 0;
    await clock.runUntil(withRetries(optionsOf(clock, { random }), attempt));
    expect(triedMs).toEqual([0, 0, 100]);
  });

  it("gives up after as many tries as it may make", async () => {
    const clock = new FakeClock();
    const { attempt, triedMs } = failing(
      clock,
      Array.from({ length: 9 }, () => UNREACHABLE),
    );
    const fault = await clock.runUntil(faultFrom(withRetries(optionsOf(clock), attempt)));
    expect(fault).toEqual(UNREACHABLE);
    expect(triedMs).toHaveLength(4);
  });

  it("does not try again what cannot help", async () => {
    const clock = new FakeClock();
    const fault: Fault = { code: "registry_unauthorized", host: "h", repository: "r", status: 401 };
    const { attempt, triedMs } = failing(clock, [fault]);
    expect(await faultFrom(withRetries(optionsOf(clock), attempt))).toEqual(fault);
    expect(triedMs).toHaveLength(1);
  });

  it("waits at least as long as Retry-After says", async () => {
    const clock = new FakeClock(0);
    const throttled: Fault = { code: "registry_throttled", host: "h", retryAfterMs: 7_000 };
    const { attempt, triedMs } = failing(clock, [throttled], 7_000);
    await clock.runUntil(withRetries(optionsOf(clock), attempt));
    expect(triedMs).toEqual([0, 7_000]);
  });

  it("does not wait for a try that could only begin after the deadline", async () => {
    const clock = new FakeClock(0);
    const { attempt, triedMs } = failing(clock, [UNREACHABLE], 61_000);
    expect(await faultFrom(withRetries(optionsOf(clock), attempt))).toEqual(UNREACHABLE);
    expect(triedMs).toEqual([0]);
  });

  it("tries sooner when there is less time than it would wait", async () => {
    const clock = new FakeClock(0);
    const { attempt, triedMs } = failing(
      clock,
      Array.from({ length: 9 }, () => UNREACHABLE),
    );
    const options = optionsOf(clock, { attemptsMax: Number.POSITIVE_INFINITY, deadlineMs: 1_000 });
    expect(await clock.runUntil(faultFrom(withRetries(options, attempt)))).toEqual(UNREACHABLE);
    expect(triedMs.map(Math.round)).toEqual([0, 100, 300, 700, 850, 925]);
  });

  it("waits as it is told", async () => {
    const { attempt, triedMs } = failing(new FakeClock(), [UNREACHABLE, UNREACHABLE]);
    const waited: number[] = [];
    const pause = (delayMs: number): Promise<void> => {
      waited.push(Math.round(delayMs));
      return Promise.resolve();
    };
    await withRetries(optionsOf(new FakeClock(), { pause }), attempt);
    expect([waited, triedMs.length]).toEqual([[100, 200], 3]);
  });

  it("stops waiting when it is aborted", async () => {
    const clock = new FakeClock();
    const abort = new AbortController();
    const { attempt } = failing(clock, [UNREACHABLE]);
    const work = faultFrom(withRetries(optionsOf(clock, { signal: abort.signal }), attempt));
    await clock.timerSet(() => true);
    abort.abort(new DaemonError({ code: "stopping" }));
    expect(await work).toEqual({ code: "stopping" });
    expect(clock.pendingCount).toBe(0);
  });

  it("reports each failed try and whether another follows", async () => {
    const clock = new FakeClock();
    const { attempt } = failing(
      clock,
      Array.from({ length: 9 }, () => UNREACHABLE),
    );
    const seen: (number | undefined)[] = [];
    const options = optionsOf(clock, {
      random: () => 0,
      attemptsMax: 3,
      onFailure: (_, delayMs) => seen.push(delayMs),
    });
    await clock.runUntil(faultFrom(withRetries(options, attempt)));
    expect(seen).toEqual([0, 0, undefined]);
  });

  it("passes our own bugs on at once", async () => {
    const work = withRetries(optionsOf(new FakeClock()), () => Promise.reject(new Error("bug")));
    await expect(work).rejects.toThrow("bug");
  });
});

describe("Retry-After", () => {
  const date = "Fri, 20 Nov 2026 10:00:00 GMT";
  const parse = (text: string, headers: Record<string, string> = {}) =>
    parseRetryAfter(new Map(Object.entries({ "retry-after": text, ...headers })), () =>
      Date.parse(date),
    );

  it("is seconds, or a date counted from the response's own", () => {
    expect(parse("0")).toBe(0);
    expect(parse(" 120 ")).toBe(120_000);
    expect(parse("Fri, 20 Nov 2026 10:00:05 GMT")).toBe(5_000);
    const own = { date: "Fri, 20 Nov 2026 10:00:03 GMT" };
    expect(parse("Fri, 20 Nov 2026 10:00:05 GMT", own)).toBe(2_000);
    expect(parse("Fri, 20 Nov 2020 10:00:05 GMT")).toBe(0);
  });

  it.each(["", "-1", "1.5", "soon", "99999999999", "Fri, 99 Nov 2026 10:00:05 GMT", "2026-11-20"])(
    "%j says nothing",
    (text) => {
      expect(parse(text)).toBeUndefined();
    },
  );

  it("may be absent", () => {
    expect(parseRetryAfter(new Map(), () => 0)).toBeUndefined();
  });
});

// SPDX-License-Identifier: Apache-2.0
// What a service manager is told and when: never that the daemon is well when it is not.

import { expect, test } from "vitest";
import type { NotifyFields } from "../../src/platform/systemd.ts";
import { ServiceReport, healthProblem } from "../../src/service-report.ts";
import { errnoError } from "../support/scripted-native.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { QuietLog } from "../support/quiet-log.ts";

class Site {
  readonly clock = new FakeClock();
  readonly log = new QuietLog();
  readonly told: NotifyFields[] = [];
  readonly report: ServiceReport;
  problem: string | undefined;
  line = "Serving";
  refusal: Error | undefined;

  constructor(watchdogUsec?: number, isListening = true) {
    this.report = new ServiceReport({
      systemd: {
        isListening,
        watchdogUsec: () => watchdogUsec,
        notify: (fields) => {
          this.told.push(fields);
          return this.refusal === undefined ? Promise.resolve() : Promise.reject(this.refusal);
        },
      },
      clock: this.clock,
      log: this.log,
      problem: () => this.problem,
      status: () => this.line,
    });
  }

  take(): NotifyFields[] {
    return this.told.splice(0);
  }
}

const WATCHDOG_USEC = 9_000_000;

test("the watchdog is fed three times in its time while the daemon is well, and not after a stop", async () => {
  const site = new Site(WATCHDOG_USEC);
  await site.report.ready();
  expect(site.take()).toEqual([{ READY: 1, STATUS: "Serving" }]);
  await site.clock.advance(9000);
  expect(site.take()).toEqual([{ WATCHDOG: 1 }, { WATCHDOG: 1 }, { WATCHDOG: 1 }]);
  await site.report.stopping();
  expect(site.take()).toEqual([{ STOPPING: 1, STATUS: "Stopping" }]);
  await site.clock.advance(60_000);
  expect(site.take()).toEqual([]);
  expect(site.clock.pendingCount).toBe(0);
});

test("while it is not well the watchdog is not fed, and the reason is shown and logged once", async () => {
  const site = new Site(WATCHDOG_USEC);
  await site.report.ready();
  site.take();
  site.problem = "the door is stuck";
  await site.clock.advance(9000);
  expect(site.take()).toEqual([{ STATUS: "Not well: the door is stuck" }]);
  expect(site.log.lines.filter(({ level }) => level === "error")).toHaveLength(1);
  site.problem = undefined;
  await site.clock.advance(3000);
  expect(site.take()).toEqual([{ STATUS: "Serving", WATCHDOG: 1 }]);
});

test("without a watchdog only a status that changes is told", async () => {
  const site = new Site();
  await site.report.ready();
  await site.clock.advance(30_000);
  site.line = "Serving: 1 open";
  await site.clock.advance(30_000);
  expect(site.take()).toEqual([{ READY: 1, STATUS: "Serving" }, { STATUS: "Serving: 1 open" }]);
});

test("without a service manager nothing runs; one that cannot be reached spoils nothing", async () => {
  const alone = new Site(WATCHDOG_USEC, false);
  await alone.report.ready();
  expect([alone.take(), alone.clock.pendingCount]).toEqual([[], 0]);
  const deaf = new Site(WATCHDOG_USEC);
  deaf.refusal = errnoError("sendmsg", "ECONNREFUSED");
  await deaf.report.ready();
  await deaf.clock.advance(3000);
  expect(deaf.take()).toHaveLength(2);
});

test("a daemon is well while its door answers and nobody waits past their deadline", () => {
  const clock = new FakeClock(100_000);
  const state = { isReady: true, sinceMs: 100_000, probes: 0 };
  const look = () =>
    healthProblem({
      door: { probe: () => (state.probes += 1) },
      readiness: state,
      engine: { waiting: () => [{ cookieKey: "k", sinceMs: state.sinceMs }] },
      readTimeoutMs: 20_000,
      clock,
    });
  expect(look()).toBeUndefined();
  state.sinceMs = 100_000 - 24_000;
  expect(look()).toBeUndefined();
  state.sinceMs = 100_000 - 26_000;
  expect(look()).toBe('a read of "k" is long overdue');
  state.isReady = false;
  expect(look()).toBe("the door to the kernel is closed");
  expect(state.probes).toBe(4);
});

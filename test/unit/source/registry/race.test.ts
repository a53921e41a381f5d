// SPDX-License-Identifier: Apache-2.0
// Two lanes over one range: every order of what can happen to them, and the rules by name.
import { describe, expect, it } from "vitest";
import { DaemonError, type Fault } from "../../../../src/errors.ts";
import { faultFrom } from "../../../support/faults.ts";
import {
  CONTENT,
  DELAY_MS,
  type RaceRig,
  STALL_MS,
  expectTidy,
  startRace,
} from "../../../support/race-rig.ts";
import { turns } from "../../../support/turns.ts";

const unreachable: Fault = { code: "registry_unreachable", host: "a", detail: "no" };
const protocol: Fault = { code: "registry_protocol", host: "b", detail: "lies" };

type Step = "a piece" | "a end" | "a fail" | "b piece" | "b end" | "b fail" | "wait" | "cancel";

type LaneStep = "piece" | "end" | "fail";

const LANE_SCRIPTS: readonly (readonly LaneStep[])[] = [
  [],
  ["end"],
  ["fail"],
  ["piece", "end"],
  ["piece", "fail"],
];

const TIMES: readonly (readonly Step[])[] = [["wait"], ["wait", "wait"], ["wait", "cancel"]];

function interleavings(...lists: (readonly Step[])[]): Step[][] {
  const left = lists.filter((list) => list.length > 0);
  if (left.length === 0) return [[]];
  return left.flatMap((list) => {
    const [head, ...rest] = list;
    const others = left.map((each) => (each === list ? rest : each));
    return head === undefined ? [] : interleavings(...others).map((tail) => [head, ...tail]);
  });
}

async function take(rig: RaceRig, step: Step): Promise<void> {
  const lane = step.startsWith("a") ? rig.a : rig.b;
  if (step === "wait") await rig.clock.advance(STALL_MS);
  else if (step === "cancel") rig.cancel.abort(new DaemonError({ code: "stopping" }));
  else if (lane.isRunning) {
    if (step.endsWith("piece")) lane.piece();
    else if (step.endsWith("end")) lane.end();
    else lane.fail(step.startsWith("a") ? unreachable : protocol);
  }
  await turns(1);
}

async function outcomeOf(rig: RaceRig): Promise<string> {
  await turns(1);
  const pending = new Promise<string>((resolve) => {
    setImmediate(() => resolve("pending"));
  });
  const settled = rig.result.then(
    () => "resolved",
    (error: unknown) => (error instanceof DaemonError ? error.fault.code : "a bug"),
  );
  return await Promise.race([settled, pending]);
}

/** Each byte once and in order, and an outcome that the bytes bear out. */
async function expectRules(steps: readonly Step[], takesOver: boolean): Promise<void> {
  const rig = startRace({ takesOver });
  for (const step of steps) await take(rig, step);
  const outcome = await outcomeOf(rig);
  const about = `${steps.join(", ")} takesOver=${takesOver}`;
  expect(rig.delivered, about).toEqual([...CONTENT.subarray(0, rig.delivered.length)]);
  if (outcome === "resolved") expect(rig.delivered.length, about).toBe(CONTENT.length);
  if (outcome === "pending") {
    expect(rig.a.isRunning || rig.b.isRunning, about).toBe(true);
    expect(steps, about).not.toContain("cancel");
    rig.cancel.abort();
    await turns(1);
  } else {
    expect(["resolved", "registry_unreachable", "registry_protocol", "stopping"], about).toContain(
      outcome,
    );
  }
  expectTidy(rig);
}

describe("two lanes", () => {
  it("deliver each byte once and in order, in every order of what happens to them", async () => {
    const runs: Promise<void>[] = [];
    const named = (lane: "a" | "b", script: readonly LaneStep[]): Step[] =>
      script.map((step): Step => `${lane} ${step}`);
    for (const a of LANE_SCRIPTS) {
      for (const b of LANE_SCRIPTS) {
        for (const extra of TIMES) {
          for (const steps of interleavings(named("a", a), named("b", b), extra)) {
            runs.push(expectRules(steps, runs.length % 2 === 0));
          }
        }
      }
    }
    expect(runs.length).toBeGreaterThan(1_000);
    await Promise.all(runs);
  });

  it("are one, while the first is in time", async () => {
    const rig = startRace();
    rig.a.end();
    expect(await rig.result).toEqual({ winner: 0 });
    expect(rig.b.offsets).toEqual([]);
    expectTidy(rig);
  });

  it("start at once without a delay", async () => {
    const rig = startRace({ delayMs: 0 });
    await rig.clock.advance(0);
    rig.b.piece();
    expect(rig.a.isRunning).toBe(false);
    rig.b.end();
    expect(await rig.result).toEqual({ winner: 1 });
  });

  it("let the one go that is behind, at the first byte of the other", async () => {
    const rig = startRace();
    await rig.clock.advance(DELAY_MS);
    expect([rig.a.isRunning, rig.b.isRunning]).toEqual([true, true]);
    rig.b.piece();
    expect([rig.a.isRunning, rig.b.isRunning]).toEqual([false, true]);
    // A piece that was already on its way is nobody's any more.
    rig.a.piece();
    rig.b.end();
    expect(await rig.result).toEqual({ winner: 1 });
    expect(rig.delivered).toEqual([...CONTENT]);
    expect(rig.events).toEqual(["late", "lead 1"]);
  });

  it("replace each other at once when the first fails", async () => {
    const rig = startRace();
    rig.a.fail(unreachable);
    await turns(1);
    expect(rig.b.offsets).toEqual([0]);
    expect(rig.clock.nowMs()).toBe(1_000);
    rig.b.end();
    expect(await rig.result).toEqual({ winner: 1 });
  });

  it("go on in mid-body at the byte where the first stopped", async () => {
    const rig = startRace();
    rig.a.piece();
    await rig.clock.advance(STALL_MS);
    expect(rig.b.offsets).toEqual([2]);
    rig.b.end();
    expect(await rig.result).toEqual({ winner: 1 });
    expect(rig.a.isRunning).toBe(false);
    expect(rig.events).toEqual(["lead 0", "stalled", "lead 1"]);
  });

  it("forget the second when the first goes on after all", async () => {
    const rig = startRace();
    rig.a.piece();
    await rig.clock.advance(STALL_MS);
    rig.a.piece();
    expect(rig.b.isRunning).toBe(false);
    rig.a.end();
    expect(await rig.result).toEqual({ winner: 0 });
  });

  it("come back after they lost, when the one that won pauses", async () => {
    const rig = startRace();
    await rig.clock.advance(DELAY_MS);
    rig.a.piece();
    expect(rig.b.isRunning).toBe(false);
    await rig.clock.advance(STALL_MS);
    expect(rig.b.offsets).toEqual([0, 2]);
    rig.b.piece();
    await rig.clock.advance(STALL_MS);
    expect(rig.a.offsets).toEqual([0, 4]);
    rig.a.end();
    expect(await rig.result).toEqual({ winner: 0 });
    expect(rig.delivered).toEqual([...CONTENT]);
    expectTidy(rig);
  });

  it("come back after they lost, when the one that won fails", async () => {
    const rig = startRace();
    await rig.clock.advance(DELAY_MS);
    rig.b.piece();
    rig.b.fail(unreachable);
    await turns(1);
    expect(rig.a.offsets).toEqual([0, 2]);
    rig.a.end();
    expect(await rig.result).toEqual({ winner: 0 });
    expect(rig.delivered).toEqual([...CONTENT]);
  });

  it("end at once with the word of the one that counts, when trying again cannot help", async () => {
    const rig = startRace({ authority: 1 });
    await rig.clock.advance(DELAY_MS);
    const gone: Fault = { code: "blob_not_found", host: "b", repository: "r", digest: "d" };
    rig.b.fail(gone);
    expect(await faultFrom(rig.result)).toEqual(gone);
    expectTidy(rig);
  });

  it("do not count a pause between steady pieces as a stall", async () => {
    const rig = startRace();
    for (let at = 0; at < CONTENT.length; at += 1) {
      rig.a.piece(1);
      await rig.clock.advance(STALL_MS - 1);
    }
    expect(rig.b.offsets).toEqual([]);
    rig.a.end();
    await rig.result;
    expectTidy(rig);
  });

  it("are one when the second may not start", async () => {
    const asked: string[] = [];
    const mayStart = (reason: string): boolean => {
      asked.push(reason);
      return false;
    };
    const rig = startRace({ mayStart, takesOver: false });
    await rig.clock.advance(DELAY_MS);
    rig.a.piece();
    await rig.clock.advance(STALL_MS);
    rig.a.fail(protocol);
    expect(await faultFrom(rig.result)).toEqual(protocol);
    expect(asked).toEqual(["late", "stalled"]);
    expect(rig.b.offsets).toEqual([]);
    expectTidy(rig);
  });

  it("leave a failure of the first as it is when the second is not to take over", async () => {
    const rig = startRace({ takesOver: false });
    rig.a.fail(unreachable);
    expect(await faultFrom(rig.result)).toEqual(unreachable);
  });

  it.each<[string, Fault, Fault, 0 | 1 | undefined, Fault]>([
    ["the one that was answered", unreachable, protocol, undefined, protocol],
    ["the one that was answered, first", protocol, unreachable, undefined, protocol],
    ["the first of equals", unreachable, { ...unreachable, host: "z" }, undefined, unreachable],
    ["the one whose word counts", protocol, unreachable, 1, unreachable],
  ])("fail with the fault of %s", async (_, first, second, authority, told) => {
    const rig = startRace(authority === undefined ? {} : { authority });
    await rig.clock.advance(DELAY_MS);
    rig.a.fail(first);
    await turns(1);
    rig.b.fail(second);
    expect(await faultFrom(rig.result)).toEqual(told);
    expectTidy(rig);
  });

  it("are both cancelled by the caller, with the caller's reason", async () => {
    const rig = startRace();
    await rig.clock.advance(DELAY_MS);
    rig.cancel.abort(new DaemonError({ code: "stopping" }));
    expect(await faultFrom(rig.result)).toEqual({ code: "stopping" });
    expect([rig.a.isRunning, rig.b.isRunning]).toEqual([false, false]);
    expectTidy(rig);
  });

  it("never start for a caller who has gone", async () => {
    const cancel = new AbortController();
    cancel.abort();
    const rig = startRace({ signal: cancel.signal });
    expect((await faultFrom(rig.result)).code).toBe("cancelled");
    expect(rig.a.offsets).toEqual([]);
  });

  it("stop at what the receiver throws, and pass it on", async () => {
    const rig = startRace({
      onPiece: () => {
        throw new Error("the receiver's bug");
      },
    });
    expect(() => rig.a.piece()).toThrow("the receiver's bug");
    await expect(rig.result).rejects.toThrow("the receiver's bug");
    expect(rig.a.isRunning).toBe(false);
    expectTidy(rig);
  });
});

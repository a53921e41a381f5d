// SPDX-License-Identifier: Apache-2.0
// Requests that a reader waits for and that come late are made a second time. Sockets are real,
// time passes when the test says so.
import type { Socket } from "node:net";
import { describe, expect, it } from "vitest";
import { registryUpstream } from "../../../../src/source/registry/upstream.ts";
import { sameBytes } from "../../../support/bytes.ts";
import { FakeClock } from "../../../support/fake-clock.ts";
import {
  CONTENT,
  type ClientFixture,
  type FixtureOptions,
  startClient,
} from "../../../support/registry-client.ts";
import {
  type Respond,
  response,
  rightAnswer,
  startScriptedServer,
} from "../../../support/scripted-server.ts";
import { turns } from "../../../support/turns.ts";

const EXTENT = { offset: 0, length: 50_000 };
const WANTED = CONTENT.subarray(0, 50_000);
/** Of a host that always answered at once: the least that a hedge waits. */
const LATE_MS = 20;
/** Of the same host: the least pause in a body. */
const STALL_MS = 250;
const PRIMING = 10;

const right: Respond = (request, socket) => socket.write(rightAnswer(request, CONTENT));

interface Hedged extends AsyncDisposable {
  readonly clock: FakeClock;
  readonly client: ClientFixture;
  readonly events: string[];
}

/** A client that knows its host, whose server answers all but what `slow` takes. */
async function startHedged(
  slow: Respond | undefined,
  fixture: Partial<FixtureOptions> = {},
  priming = PRIMING,
): Promise<Hedged> {
  const clock = new FakeClock();
  const events: string[] = [];
  let isPrimed = false;
  const respond: Respond = (request, socket) => {
    if (isPrimed && slow !== undefined) slow(request, socket);
    else right(request, socket);
  };
  const client = await startClient(respond, {
    clock,
    observe: { hedge: (_, event) => events.push(event) },
    ...fixture,
    options: { attemptsMax: 1, hedgePercent: 3, ...fixture.options },
  });
  for (let at = 0; at < priming; at += 1) await client.read({ offset: 60_000 + at, length: 1 });
  isPrimed = true;
  return { clock, client, events, [Symbol.asyncDispose]: () => client[Symbol.asyncDispose]() };
}

/** The first request is left without an answer, the others are served. */
function silentOnce(): Respond {
  let isFirst = true;
  return (request, socket) => {
    if (!isFirst) right(request, socket);
    isFirst = false;
  };
}

describe("a late demand request", () => {
  it("is made again on another connection, and the slower one is let go", async () => {
    await using made = await startHedged(silentOnce());
    const { client, clock } = made;
    const reading = client.read(EXTENT);
    await clock.timerSet((delayMs) => delayMs === LATE_MS);
    while (client.server.requests.length === PRIMING) await turns(1);
    const gone = client.server.connectionClosed();
    await clock.advance(LATE_MS);
    expect(sameBytes(await reading, WANTED)).toBe(true);
    await gone;
    expect(client.server.requests).toHaveLength(PRIMING + 2);
    expect(made.events).toEqual(["started", "won"]);
    await client.source.close();
    expect(clock.pendingCount).toBe(0);
  });

  it("hears what the host asks for by the one that is covered by the other", async () => {
    const sockets: Socket[] = [];
    let answerHedge = (): void => undefined;
    await using made = await startHedged((request, socket) => {
      sockets.push(socket);
      answerHedge = () => right(request, socket);
    });
    const { client, clock } = made;
    const reading = client.read(EXTENT);
    await clock.timerSet((delayMs) => delayMs === LATE_MS);
    while (sockets.length === 0) await turns(1);
    await clock.advance(LATE_MS);
    while (sockets.length === 1) await turns(1);
    sockets[0]?.write(response(429, { "retry-after": "7" }));
    while (client.observed.failures.length === 0) await turns(1);
    answerHedge();
    expect(sameBytes(await reading, WANTED)).toBe(true);
    expect(client.logged.join("\n")).toContain("429 Too Many Requests; trying again");
    // Seven seconds are longer than it has.
    const { fault } = await client.readFault(EXTENT, { deadlineMs: clock.nowMs() + 6_000 });
    expect(fault).toMatchObject({ code: "registry_throttled" });
  });

  it("goes to the next upstream, where there is one", async () => {
    let isSilent = false;
    const mirror = await startScriptedServer((request, socket) => {
      if (!isSilent) right(request, socket);
    });
    const upstreams: FixtureOptions["upstreams"] = (_, plain) =>
      Promise.resolve([{ ...registryUpstream(mirror.host, "http"), isMirror: true }, plain]);
    await using made = await startHedged(undefined, { upstreams });
    const { client, clock } = made;
    isSilent = true;
    const reading = client.read(EXTENT);
    while (mirror.requests.length === PRIMING) await turns(1);
    await clock.advance(LATE_MS);
    expect(sameBytes(await reading, WANTED)).toBe(true);
    expect([mirror.requests.length, client.server.requests.length]).toEqual([PRIMING + 1, 1]);
    await mirror.close();
  });

  it("is gone on with elsewhere at its byte when the body stops", async () => {
    let isFirst = true;
    await using made = await startHedged((request, socket) => {
      const whole = rightAnswer(request, CONTENT);
      socket.write(isFirst ? whole.subarray(0, -30_000) : whole);
      isFirst = false;
    });
    const { client, clock, events } = made;
    const reading = client.read(EXTENT);
    while (client.observed.bytes < PRIMING + 20_000) await turns(1);
    await clock.advance(STALL_MS);
    expect(sameBytes(await reading, WANTED)).toBe(true);
    expect(client.server.requests.at(-1)?.headers.get("range")).toBe("bytes=20000-49999");
    expect(events).toEqual(["started", "won"]);
  });
});

describe("no second request is made", () => {
  const STEP_MS = 5_000;

  /** Nothing is answered; how many requests were made before the deadline. */
  async function requestsUntilDeadline(made: Hedged, urgency?: "ahead" | "prefetch") {
    const { client, clock } = made;
    const before = client.server.requests.length;
    const deadlineMs = clock.nowMs() + STEP_MS;
    const reading = client.readFault(EXTENT, { deadlineMs, ...(urgency && { urgency }) });
    while (client.server.requests.length === before) await turns(1);
    await clock.advance(STEP_MS / 2);
    // A second one would have come by now.
    for (let at = 0; at < 20; at += 1) await turns(5);
    const count = client.server.requests.length - before;
    await clock.advance(STEP_MS);
    expect((await reading).fault.code).toBe("deadline_exceeded");
    return count;
  }

  const silent: Respond = () => undefined;

  it.each(["ahead", "prefetch"] as const)("for what nobody waits for: %s", async (urgency) => {
    await using made = await startHedged(silent);
    expect(await requestsUntilDeadline(made, urgency)).toBe(1);
  });

  it("when hedges are off", async () => {
    await using made = await startHedged(silent, { options: { hedgePercent: 0 } });
    expect(await requestsUntilDeadline(made)).toBe(1);
  });

  it("to a host that nothing is known of", async () => {
    await using made = await startHedged(silent, {}, 0);
    expect(await requestsUntilDeadline(made)).toBe(1);
  });

  it("beyond a few per cent of all", async () => {
    await using made = await startHedged(silent);
    const counts: number[] = [];
    for (let at = 0; at < 4; at += 1) counts.push(await requestsUntilDeadline(made));
    expect(counts).toEqual([2, 1, 1, 1]);
  });
});

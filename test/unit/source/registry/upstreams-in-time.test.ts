// SPDX-License-Identifier: Apache-2.0
// What a client learns of its upstreams, and forgets again. Sockets are real, the clock is not.
import { expect, it } from "vitest";
import { sameBytes } from "../../../support/bytes.ts";
import { FakeClock } from "../../../support/fake-clock.ts";
import { type Mirrored, startMirrored } from "../../../support/mirrored-client.ts";
import { CONTENT, startClient } from "../../../support/registry-client.ts";
import { type Respond, response, rightAnswer } from "../../../support/scripted-server.ts";

const right: Respond = (request, socket) => socket.write(rightAnswer(request, CONTENT));

function answer(status: number, headers: Record<string, string> = {}): Respond {
  return (_, socket) => socket.write(response(status, headers));
}

/** Blobs asked of the mirror, and of the registry: its own pings are not counted. */
function counts({ mirror, client }: Mirrored): readonly [number, number] {
  const [first, second] = [mirror, client.server].map(
    ({ requests }) => requests.filter(({ path }) => path.includes("/blobs/")).length,
  );
  return [first ?? 0, second ?? 0];
}

/** Reads 100 bytes that nobody has read before. */
async function readNew({ client }: Mirrored, at: number): Promise<void> {
  const extent = { offset: at * 100, length: 100 };
  const wanted = CONTENT.subarray(at * 100, at * 100 + 100);
  expect(sameBytes(await client.read(extent), wanted)).toBe(true);
}

it("asks a mirror that fails three times no more, until it answers a ping", async () => {
  const clock = new FakeClock();
  let works = false;
  await using made = await startMirrored(
    (request, socket) => {
      if (!works) answer(500)(request, socket);
      else if (request.path === "/v2/") answer(401)(request, socket);
      else right(request, socket);
    },
    { clock },
  );
  for (let at = 0; at < 6; at += 1) await readNew(made, at);
  expect(counts(made)).toEqual([3, 6]);
  const pings = (): number => made.mirror.requests.filter(({ path }) => path === "/v2/").length;
  await clock.advance(1_000);
  await clock.timerSet((delayMs) => delayMs === 2_000);
  expect(pings()).toBe(1);
  await readNew(made, 6);
  expect(counts(made)).toEqual([3, 7]);
  works = true;
  await clock.advance(2_000);
  while (counts(made)[0] === 3) {
    await readNew(made, 7);
    await nextTurn();
  }
  await readNew(made, 8);
  expect([counts(made)[0], pings()]).toEqual([5, 2]);
});

it("asks a mirror that does not have a blob only now and then", async () => {
  const clock = new FakeClock();
  await using made = await startMirrored(answer(404), { clock });
  for (let at = 0; at < 5; at += 1) await readNew(made, at);
  expect(counts(made)).toEqual([1, 5]);
  await clock.advance(60_000);
  await readNew(made, 5);
  expect(counts(made)).toEqual([2, 6]);
});

it("asks the doubted mirror after all, when the registry fails", async () => {
  const clock = new FakeClock();
  let has = false;
  await using made = await startMirrored(
    (request, socket) => (has ? right : answer(404))(request, socket),
    { clock, registry: (request, socket) => (has ? answer(502) : right)(request, socket) },
  );
  await readNew(made, 0);
  has = true;
  await readNew(made, 1);
  expect(counts(made)).toEqual([2, 2]);
});

it("takes the registry's word, not that of a doubted mirror that is asked after it", async () => {
  const clock = new FakeClock();
  let failures = 0;
  await using made = await startMirrored(answer(404), {
    clock,
    registry: (request, socket) => {
      if (failures > 0) answer(502)(request, socket);
      else right(request, socket);
      failures -= 1;
    },
  });
  await readNew(made, 0);
  failures = 1;
  const reading = readNew(made, 1);
  await clock.timerSet((delayMs) => delayMs === 0);
  await clock.advance(0);
  await reading;
  expect(counts(made)).toEqual([2, 3]);
});

it("asks the registry itself for what a mirror has just served and somebody refused", async () => {
  const clock = new FakeClock();
  const lies: Respond = (request, socket) => {
    const whole = rightAnswer(request, CONTENT);
    whole[whole.length - 1] = (whole.at(-1) ?? 0) ^ 1;
    socket.write(whole);
  };
  await using made = await startMirrored(lies, { clock });
  const extent = { offset: 0, length: 100 };
  const wanted = CONTENT.subarray(0, 100);
  expect(sameBytes(await made.client.read(extent), wanted)).toBe(false);
  expect(sameBytes(await made.client.read(extent), wanted)).toBe(true);
  expect(counts(made)).toEqual([1, 1]);
  // For a while, the rest of that blob too.
  await readNew(made, 7);
  expect(counts(made)).toEqual([1, 2]);
});

it("does not take read-ahead in whole pieces for bytes that are asked for again", async () => {
  const clock = new FakeClock();
  await using made = await startMirrored(right, { clock });
  await readNew(made, 0);
  await made.client.read({ offset: 0, length: 1_000 }, { urgency: "ahead" });
  await made.client.read({ offset: 0, length: 1_000 }, { urgency: "prefetch" });
  expect(counts(made)).toEqual([3, 0]);
});

it("asks the registry itself for bytes of which somebody says that they were bad", async () => {
  const clock = new FakeClock();
  await using made = await startMirrored(right, { clock });
  await readNew(made, 0);
  await made.client.read({ offset: 300, length: 7 }, { avoidPeers: true });
  expect(counts(made)).toEqual([1, 1]);
  await clock.advance(60_000);
  await readNew(made, 1);
  expect(counts(made)).toEqual([2, 1]);
});

it("waits, for all, when its only upstream asks to", async () => {
  const clock = new FakeClock();
  await using client = await startClient(
    (request, socket) => {
      (request.index === 0 ? answer(429, { "retry-after": "7" }) : right)(request, socket);
    },
    { clock },
  );
  const first = client.read({ offset: 0, length: 100 });
  await clock.timerSet((delayMs) => delayMs === 7_000);
  const second = client.read({ offset: 100, length: 100 });
  const late = client.readFault(
    { offset: 200, length: 100 },
    { deadlineMs: clock.nowMs() + 5_000 },
  );
  expect((await late).fault).toMatchObject({ code: "registry_throttled" });
  await clock.advance(6_999);
  expect(client.server.requests).toHaveLength(1);
  await clock.advance(1);
  expect((await first).length + (await second).length).toBe(200);
  expect(client.server.requests).toHaveLength(3);
});

it("tries until its deadline what a reader waits for, and says what it met", async () => {
  const clock = new FakeClock();
  await using client = await startClient(answer(500), { clock, random: () => 0.5 });
  const read = { isOver: false };
  const extent = { offset: 0, length: 100 };
  const reading = client.readFault(extent, { isPatient: true }).finally(() => {
    read.isOver = true;
  });
  while (!read.isOver) {
    await nextTurn();
    if (clock.pendingDelaysMs.length > 1) await clock.advance(50);
  }
  expect((await reading).fault).toMatchObject({ code: "registry_failed", status: 500 });
  // For 20 s, with half a second between two.
  expect(client.server.requests.length).toBeGreaterThan(20);
  expect(client.server.requests.length).toBeLessThan(60);
  const told = client.logged.filter((line) => line.includes("trying again"));
  expect(told.length).toBeGreaterThan(20);
});

it("with its only upstream broken refuses prefetch at once, and lets readers try", async () => {
  const clock = new FakeClock();
  let works = false;
  await using client = await startClient(
    (request, socket) => (works ? right : answer(500))(request, socket),
    { clock, options: { attemptsMax: 1 } },
  );
  const extent = { offset: 0, length: 100 };
  for (let failed = 0; failed < 3; failed += 1) await client.readFault(extent);
  const { fault } = await client.readFault(extent, { urgency: "prefetch" });
  expect(fault).toEqual({
    code: "registry_unreachable",
    host: client.server.host,
    detail: "it failed 3 times in a row; looked at again in 1 s",
  });
  expect(client.server.requests).toHaveLength(3);
  works = true;
  expect(await client.read(extent)).toHaveLength(100);
  expect(await client.read(extent, { urgency: "prefetch" })).toHaveLength(100);
  expect(clock.pendingCount).toBe(0);
});

function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

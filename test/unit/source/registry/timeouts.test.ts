// SPDX-License-Identifier: Apache-2.0
// Slow peers, against a clock that moves only when the test says so. Sockets are real: each
// test waits for what the peer or the client does before it lets time pass.
import { describe, expect, it } from "vitest";
import { FakeClock } from "../../../support/fake-clock.ts";
import { CONTENT, type ClientFixture, startClient } from "../../../support/registry-client.ts";
import { type Respond, response, rightAnswer } from "../../../support/scripted-server.ts";

const HEADERS_MS = 11_000;
const STALL_MS = 13_000;
const EXTENT = { offset: 0, length: 50_000 };

const right: Respond = (request, socket) => socket.write(rightAnswer(request, CONTENT));

function startSlow(respond: Respond, clock: FakeClock, attemptsMax = 1): Promise<ClientFixture> {
  const options = { headersTimeoutMs: HEADERS_MS, stallTimeoutMs: STALL_MS, attemptsMax };
  return startClient(respond, { clock, options });
}

const is = (wantedMs: number) => (delayMs: number) => delayMs === wantedMs;

describe("a peer that is slow", () => {
  it("to answer at all is given up after the headers timeout", async () => {
    const clock = new FakeClock();
    await using client = await startSlow(() => undefined, clock);
    const reading = client.readFault(EXTENT, { deadlineMs: clock.nowMs() + 60_000 });
    await clock.timerSet(is(HEADERS_MS));
    const gone = client.server.connectionClosed();
    await clock.advance(HEADERS_MS);
    expect((await reading).fault).toMatchObject({ code: "registry_timeout" });
    await gone;
    expect(clock.pendingCount).toBe(0);
  });

  it("to send the rest of its headers is given up too", async () => {
    const clock = new FakeClock();
    const { promise, resolve } = deferred();
    await using client = await startSlow((_, socket) => {
      socket.write("HTTP/1.1 206 X\r\ncontent-", () => resolve());
    }, clock);
    const reading = client.readFault(EXTENT, { deadlineMs: clock.nowMs() + 60_000 });
    await promise;
    await clock.timerSet(is(HEADERS_MS));
    await clock.advance(HEADERS_MS);
    expect((await reading).fault.code).toBe("registry_timeout");
  });

  it("in the middle of a body is given up after the stall timeout", async () => {
    const clock = new FakeClock();
    await using client = await startSlow((request, socket) => {
      const whole = rightAnswer(request, CONTENT);
      socket.write(whole.subarray(0, whole.length - 1));
    }, clock);
    const reading = client.readFault(EXTENT, { deadlineMs: clock.nowMs() + 60_000 });
    await clock.timerSet(is(STALL_MS));
    while (client.observed.bytes < EXTENT.length - 1) await nextTurn();
    await clock.advance(STALL_MS);
    const { fault, delivered } = await reading;
    expect(fault.code).toBe("registry_timeout");
    expect(delivered).toHaveLength(EXTENT.length - 1);
    expect(clock.pendingCount).toBe(0);
  });

  it("but steady is waited for, however long it takes", async () => {
    const clock = new FakeClock();
    let sendRest = (): void => undefined;
    await using client = await startSlow((request, socket) => {
      const whole = rightAnswer(request, CONTENT);
      socket.write(whole.subarray(0, -2));
      sendRest = () => socket.write(whole.subarray(-2, -1));
    }, clock);
    const reading = client.readFault(EXTENT, { deadlineMs: clock.nowMs() + 60_000 });
    await clock.timerSet(is(STALL_MS));
    while (client.observed.bytes < EXTENT.length - 2) await nextTurn();
    await clock.advance(STALL_MS - 1);
    sendRest();
    while (client.observed.bytes < EXTENT.length - 1) await nextTurn();
    await clock.advance(STALL_MS - 1);
    expect(client.observed.failures).toEqual([]);
    await clock.advance(1);
    expect((await reading).fault.code).toBe("registry_timeout");
  });

  it("is tried again, and gone on with where it stopped", async () => {
    const clock = new FakeClock();
    await using client = await startSlow(
      (request, socket) => {
        const whole = rightAnswer(request, CONTENT);
        socket.write(request.index === 0 ? whole.subarray(0, -100) : whole);
      },
      clock,
      2,
    );
    const reading = client.read(EXTENT, { deadlineMs: clock.nowMs() + 60_000 });
    await clock.timerSet(is(STALL_MS));
    while (client.observed.bytes < EXTENT.length - 100) await nextTurn();
    await clock.advance(STALL_MS);
    // The backoff of 0 ms is a timer too.
    await clock.advance(0);
    expect(Buffer.compare(await reading, CONTENT.subarray(0, EXTENT.length))).toBe(0);
    expect(client.server.requests[1]?.headers.get("range")).toBe("bytes=49900-49999");
  });

  it("does not hold the caller beyond its deadline", async () => {
    const clock = new FakeClock();
    await using client = await startSlow(() => undefined, clock);
    const reading = client.readFault(EXTENT, { deadlineMs: clock.nowMs() + 5_000 });
    await clock.timerSet(is(HEADERS_MS));
    const gone = client.server.connectionClosed();
    await clock.advance(5_000);
    expect((await reading).fault).toEqual({
      code: "deadline_exceeded",
      what: `blob ${client.blob.digest}`,
      timeoutMs: 5_000,
    });
    await gone;
    expect(clock.pendingCount).toBe(0);
  });
});

describe("a peer that asks us to wait", () => {
  const busy =
    (status: number, retryAfter: string): Respond =>
    (request, socket) => {
      const headers = { "retry-after": retryAfter, date: "Fri, 20 Nov 2026 10:00:00 GMT" };
      if (request.index === 0) socket.write(response(status, headers));
      else right(request, socket);
    };

  it.each([
    [429, "7"],
    [503, "7"],
    [429, "Fri, 20 Nov 2026 10:00:07 GMT"],
  ])("with %d and Retry-After: %s is waited for", async (status, retryAfter) => {
    const clock = new FakeClock();
    await using client = await startSlow(busy(status, retryAfter), clock, 4);
    const reading = client.read(EXTENT, { deadlineMs: clock.nowMs() + 60_000 });
    await clock.timerSet(is(7_000));
    await clock.advance(6_999);
    expect(client.server.requests).toHaveLength(1);
    await clock.advance(1);
    expect(await reading).toHaveLength(EXTENT.length);
    expect(clock.nowMs()).toBe(8_000);
  });

  it("for longer than we have is not", async () => {
    const clock = new FakeClock();
    await using client = await startSlow(busy(429, "3600"), clock, 4);
    const { fault } = await client.readFault(EXTENT, { deadlineMs: clock.nowMs() + 60_000 });
    expect(fault).toEqual({
      code: "registry_throttled",
      host: client.server.host,
      retryAfterMs: 3_600_000,
    });
    expect(clock.pendingCount).toBe(0);
  });
});

function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

function deferred(): { promise: Promise<void>; resolve: () => void } {
  let resolve = (): void => undefined;
  const promise = new Promise<void>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}

// SPDX-License-Identifier: Apache-2.0
// A registry and a peer-to-peer proxy before it, raced. Sockets are real, time passes when the
// test says so.
import { describe, expect, it } from "vitest";
import type { ProxyProfile } from "../../../../src/source/registry/access.ts";
import type { FetchOptions } from "../../../../src/source/source.ts";
import { sameBytes } from "../../../support/bytes.ts";
import { FakeClock } from "../../../support/fake-clock.ts";
import { CONTENT, type ClientFixture, startClient } from "../../../support/registry-client.ts";
import {
  type Respond,
  type ScriptedServer,
  response,
  rightAnswer,
  startScriptedServer,
} from "../../../support/scripted-server.ts";
import { turns } from "../../../support/turns.ts";

const EXTENT = { offset: 10, length: 50_000 };
const WANTED = CONTENT.subarray(10, 50_010);
/** While nothing is known of the registry. */
const HEAD_START_MS = 2;
const PATIENCE_MS = 5_000;
const STALL_UNKNOWN_MS = 2_000;

const right: Respond = (request, socket) => socket.write(rightAnswer(request, CONTENT));
const silent: Respond = () => undefined;
const errorAs200: Respond = (_, socket) =>
  socket.write(response(200, { "x-dragonfly-error-type": "backend" }));

interface Raced extends AsyncDisposable {
  readonly clock: FakeClock;
  readonly client: ClientFixture;
  readonly proxy: ScriptedServer;
  readonly events: string[];
}

async function startRaced(
  viaPeers: Respond,
  straight: Respond = right,
  profile: Partial<ProxyProfile> = {},
): Promise<Raced> {
  const clock = new FakeClock();
  const proxy = await startScriptedServer(viaPeers);
  const events: string[] = [];
  const client = await startClient(straight, {
    clock,
    options: { attemptsMax: 2 },
    peers: {
      proxy: {
        url: `http://${proxy.host}`,
        fallback: true,
        checkIntervalMs: 5_000,
        headers: { "X-Dragonfly-Tag": "erofsd" },
        prefetchHeaders: { "x-dragonfly-prefetch": "true" },
        ...profile,
      },
      hosts: [],
    },
    observe: {
      peerRace: (_, event) => events.push(event),
      peerFailure: (_, cause) => events.push(cause),
      hedge: (_, event) => events.push(`hedge ${event}`),
      breaker: (_, state) => events.push(`breaker ${state}`),
    },
  });
  return {
    clock,
    client,
    proxy,
    events,
    async [Symbol.asyncDispose]() {
      await client[Symbol.asyncDispose]();
      await proxy.close();
    },
  };
}

/** Reads, and lets `waitMs` pass when the proxy has the request. */
async function readWaiting(
  { clock, client, proxy }: Raced,
  waitMs: number,
  options: Partial<FetchOptions> = {},
): Promise<Uint8Array> {
  const before = proxy.requests.length;
  const reading = client.read(EXTENT, options);
  while (proxy.requests.length === before) await turns(1);
  await clock.advance(waitMs);
  return await reading;
}

describe("a reader", () => {
  it("gets what peers have, without a word to the registry", async () => {
    await using made = await startRaced(right);
    expect(sameBytes(await made.client.read(EXTENT), WANTED)).toBe(true);
    expect(made.client.server.requests).toEqual([]);
    expect(made.proxy.requests[0]?.headers.get("x-dragonfly-tag")).toBe("erofsd");
    expect(made.proxy.requests[0]?.headers.get("x-dragonfly-prefetch")).toBeUndefined();
    expect(made.events).toEqual([]);
  });

  it("waits for peers hardly longer than for the registry alone", async () => {
    await using made = await startRaced(silent);
    const gone = made.proxy.connectionClosed();
    expect(sameBytes(await readWaiting(made, HEAD_START_MS), WANTED)).toBe(true);
    await gone;
    expect(made.events).toEqual(["started", "won_by_registry"]);
    // Losing a race is no fault.
    expect(made.client.logged.join()).not.toContain("proxy");
    await made.client.source.close();
    expect(made.clock.pendingCount).toBe(0);
  });

  it("does not wait at all for peers that fail", async () => {
    await using made = await startRaced(errorAs200);
    expect(sameBytes(await made.client.read(EXTENT), WANTED)).toBe(true);
    expect(made.clock.nowMs()).toBe(1_000);
    expect(made.events).toEqual(["wrong_answer"]);
  });

  it("goes on at the registry, at the byte where a peer fell silent", async () => {
    await using made = await startRaced((request, socket) => {
      socket.write(rightAnswer(request, CONTENT).subarray(0, -10_000));
    });
    const reading = made.client.read(EXTENT);
    while (made.client.observed.bytes < 40_000) await turns(1);
    await made.clock.advance(STALL_UNKNOWN_MS);
    expect(sameBytes(await reading, WANTED)).toBe(true);
    expect(made.client.server.requests[0]?.headers.get("range")).toBe("bytes=40010-50009");
    expect(made.events).toEqual(["started", "stalled", "won_by_registry"]);
  });

  it("asks the registry first once peers have lost many races", async () => {
    await using made = await startRaced(silent);
    for (let at = 0; at < 5; at += 1) await readWaiting(made, HEAD_START_MS);
    const asked = made.proxy.requests.length;
    // No time passes: nobody waits for peers any more.
    expect(sameBytes(await made.client.read(EXTENT), WANTED)).toBe(true);
    expect(made.proxy.requests).toHaveLength(asked);
  });

  it("hears the registry's word when both fail", async () => {
    await using made = await startRaced(errorAs200, (_, socket) => socket.write(response(404)));
    expect((await made.client.readFault(EXTENT)).fault.code).toBe("blob_not_found");
  });

  it("is told past peers to get bytes that were bad before, and the proxy is left out", async () => {
    await using made = await startRaced(right);
    await made.client.read(EXTENT);
    expect(made.client.source.rangeHint?.(made.client.origin)).toEqual({
      alignBytes: 4_194_304,
      preferBytes: 16_777_216,
    });
    const again = await made.client.read(EXTENT, { avoidPeers: true });
    expect(sameBytes(again, WANTED)).toBe(true);
    expect([made.proxy.requests.length, made.client.server.requests.length]).toEqual([1, 1]);
    expect(made.events).toEqual(["bad_bytes", "breaker open"]);
    expect(made.client.source.rangeHint?.(made.client.origin)).toBeUndefined();
  });
});

describe.each(["ahead", "prefetch"] as const)("a fetch %s", (urgency) => {
  it("waits for slow peers, up to a bound", async () => {
    await using made = await startRaced(silent);
    const reading = readWaiting(made, PATIENCE_MS - 1, { urgency });
    while (made.clock.nowMs() < 1_000 + PATIENCE_MS - 1) await turns(1);
    await turns(20);
    expect(made.client.server.requests).toEqual([]);
    await made.clock.advance(1);
    expect(sameBytes(await reading, WANTED)).toBe(true);
    expect(made.events).toEqual(["started", "late", "won_by_registry"]);
  });

  it("does not wait for slow peers for long when a reader begins to wait for it", async () => {
    await using made = await startRaced(silent);
    const awaited = new AbortController();
    const reading = made.client.read(EXTENT, { urgency, awaited: awaited.signal });
    while (made.proxy.requests.length === 0) await turns(1);
    awaited.abort();
    // Three answers of a registry that nobody knows yet, and a bit.
    await made.clock.advance(134);
    expect(made.events).toEqual([]);
    await made.clock.advance(1);
    expect(sameBytes(await reading, WANTED)).toBe(true);
    expect(made.events).toEqual(["started", "won_by_registry"]);
  });

  it("goes to the registry at once when peers fail", async () => {
    await using made = await startRaced((_, socket) => socket.write(response(502)));
    expect(sameBytes(await made.client.read(EXTENT, { urgency }), WANTED)).toBe(true);
    expect(made.clock.nowMs()).toBe(1_000);
    expect(made.events).toEqual(["error_status"]);
  });

  it("carries the hint to fetch the rest only when nobody has asked", async () => {
    await using made = await startRaced(right);
    await made.client.read(EXTENT, { urgency });
    const hint = made.proxy.requests[0]?.headers.get("x-dragonfly-prefetch");
    expect(hint).toBe(urgency === "prefetch" ? "true" : undefined);
  });
});

describe("a proxy that keeps failing", () => {
  it("is left out for a while, and used again when it is well", async () => {
    let isWell = false;
    await using made = await startRaced((request, socket) => {
      if (isWell) right(request, socket);
      else errorAs200(request, socket);
    });
    const { client, clock, proxy, events } = made;
    for (let at = 0; at < 5; at += 1) await client.read(EXTENT, { urgency: "ahead" });
    expect(proxy.requests).toHaveLength(3);
    expect(events.at(-1)).toBe("breaker open");
    isWell = true;
    await clock.advance(1_000);
    await client.read(EXTENT, { urgency: "ahead" });
    await client.read(EXTENT, { urgency: "ahead" });
    expect(proxy.requests).toHaveLength(5);
    expect(client.server.requests).toHaveLength(5);
    expect(events.slice(-2)).toEqual(["breaker half-open", "breaker closed"]);
  });

  it("costs a hedge nothing: what it loses is not counted there", async () => {
    await using made = await startRaced(silent);
    await readWaiting(made, HEAD_START_MS);
    expect(made.events.filter((event) => event.startsWith("hedge"))).toEqual([]);
  });
});

it("asks for manifests and sizes straight, whatever the proxy", async () => {
  await using made = await startRaced(right);
  const { client } = made;
  const options = { signal: new AbortController().signal, deadlineMs: 20_000 };
  expect(await client.source.blobSize(client.blob, options)).toBe(CONTENT.length);
  expect(made.proxy.requests).toEqual([]);
});

it("asks for them through the proxy where the registry cannot be reached without it", async () => {
  await using made = await startRaced(right);
  const origin = { ...made.client.origin, host: "127.0.0.1:1" };
  const options = { signal: new AbortController().signal, deadlineMs: 20_000 };
  const size = await made.client.source.blobSize({ ...made.client.blob, origin }, options);
  expect(size).toBe(CONTENT.length);
});

// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import type { ProxyProfile } from "../../../../src/source/registry/access.ts";
import type { PeerOptions } from "../../../../src/source/registry/options.ts";
import { Peers } from "../../../../src/source/registry/peers.ts";
import { FakeClock } from "../../../support/fake-clock.ts";

const PROXY: ProxyProfile = {
  url: "http://me:secret@127.0.0.1:4001",
  fallback: true,
  checkIntervalMs: 5_000,
};
const BYTES = { offset: 1_000, length: 1_000 };

function make(options?: PeerOptions) {
  const clock = new FakeClock();
  const seen: string[] = [];
  const peers = new Peers({
    clock,
    options,
    observe: {
      peerFailure: (proxy, cause) => seen.push(`${proxy} ${cause}`),
      breaker: (proxy, state) => seen.push(`${proxy} ${state}`),
    },
    log: {
      debug: () => undefined,
      warn: (fields, message) => seen.push(JSON.stringify(fields) + message),
    },
    closing: new AbortController().signal,
    ping: () => Promise.resolve(true),
  });
  return { clock, peers, seen };
}

describe("the configured proxy", () => {
  it("is for every registry, or for those that are named", () => {
    const all = make({ proxy: PROXY, hosts: [] }).peers;
    expect(all.proxyFor("a.example", undefined)).toBe(PROXY);
    const some = make({ proxy: PROXY, hosts: ["a.example"] }).peers;
    expect(some.proxyFor("a.example", undefined)).toBe(PROXY);
    expect(some.proxyFor("b.example", undefined)).toBeUndefined();
    expect(make().peers.proxyFor("a.example", undefined)).toBeUndefined();
  });

  it("is left alone after failures, and comes back", async () => {
    const { clock, peers, seen } = make();
    for (let at = 0; at < 3; at += 1) peers.failed(PROXY, "wrong_answer");
    expect([peers.mayAsk(PROXY), peers.isInUse(PROXY)]).toEqual([false, false]);
    await clock.advance(1_000);
    expect([peers.isInUse(PROXY), peers.mayAsk(PROXY)]).toEqual([false, true]);
    expect(peers.mayAsk(PROXY)).toBe(false);
    peers.succeeded(PROXY);
    expect(peers.isInUse(PROXY)).toBe(true);
    expect(seen).toContain("127.0.0.1:4001 wrong_answer");
    expect(seen.join()).not.toContain("secret");
  });

  it("is tried by another request when nobody ever said how the first one ended", async () => {
    const { clock, peers } = make();
    for (let at = 0; at < 3; at += 1) peers.failed(PROXY, "timeout");
    await clock.advance(1_000);
    expect(peers.mayAsk(PROXY)).toBe(true);
    await clock.advance(5_000);
    expect(peers.mayAsk(PROXY)).toBe(true);
  });

  it("does not come back for a request that was made before it was left out", () => {
    const { peers } = make();
    for (let at = 0; at < 3; at += 1) peers.failed(PROXY, "timeout");
    peers.succeeded(PROXY);
    expect(peers.mayAsk(PROXY)).toBe(false);
  });

  it("is not blamed for what a registry refuses through it", () => {
    const { peers } = make();
    for (let at = 0; at < 10; at += 1) peers.failed(PROXY, "refused");
    expect(peers.mayAsk(PROXY)).toBe(true);
  });
});

describe("bad bytes", () => {
  it("that came through the proxy cost it a pause", () => {
    const { peers, seen } = make();
    peers.served(PROXY, "sha256:a", BYTES);
    peers.accuse("sha256:a", { offset: 1_999, length: 1 });
    expect(peers.mayAsk(PROXY)).toBe(false);
    expect(seen).toContain("127.0.0.1:4001 bad_bytes");
    expect(seen.join()).not.toContain("secret");
  });

  it.each([
    ["of another blob", "sha256:b", BYTES],
    ["behind its own", "sha256:a", { offset: 2_000, length: 5 }],
    ["before its own", "sha256:a", { offset: 0, length: 1_000 }],
  ])("%s are not its fault", (_, digest, extent) => {
    const { peers } = make();
    peers.served(PROXY, "sha256:a", BYTES);
    peers.accuse(digest, extent);
    expect(peers.mayAsk(PROXY)).toBe(true);
  });

  it("of long ago are forgotten", () => {
    const { peers } = make();
    peers.served(PROXY, "sha256:a", BYTES);
    for (let at = 0; at < 256; at += 1) peers.served(PROXY, "sha256:b", BYTES);
    peers.accuse("sha256:a", BYTES);
    expect(peers.mayAsk(PROXY)).toBe(true);
  });
});

describe("pieces", () => {
  it("that came through the proxy are near, with all their bytes", () => {
    const { peers } = make();
    const small = { ...PROXY, pieceBytes: 1_000 };
    peers.served(small, "sha256:a", { offset: 1_500, length: 600 });
    const near = (offset: number): boolean =>
      peers.hasNearby(small, "sha256:a", { offset, length: 1 });
    expect([999, 1_000, 2_999, 3_000].map(near)).toEqual([false, true, true, false]);
    expect(peers.hasNearby(small, "sha256:b", BYTES)).toBe(false);
    expect(peers.hasNearby({ ...small, url: "http://b" }, "sha256:a", BYTES)).toBe(false);
  });
});

describe("peers that lose races", () => {
  it("are asked second, but tried first now and then", () => {
    const { peers } = make();
    expect(peers.isHopeless(PROXY)).toBe(false);
    for (let at = 0; at < 20; at += 1) peers.raced(PROXY, false);
    const asked = Array.from({ length: 240 }, () => peers.isHopeless(PROXY));
    expect(asked.filter((second) => !second)).toHaveLength(10);
  });

  it("are asked first again when they win", () => {
    const { peers } = make();
    for (let at = 0; at < 50; at += 1) peers.raced(PROXY, false);
    for (let at = 0; at < 3; at += 1) peers.raced(PROXY, true);
    expect(peers.isHopeless(PROXY)).toBe(false);
  });

  it("stay first while they win one in five", () => {
    const { peers } = make();
    let hopeless = 0;
    for (let at = 0; at < 500; at += 1) {
      peers.raced(PROXY, at % 5 === 0);
      if (at > 50 && peers.isHopeless(PROXY)) hopeless += 1;
    }
    expect(hopeless).toBe(0);
  });
});

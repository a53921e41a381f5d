// SPDX-License-Identifier: Apache-2.0
// The distribution project's registry behind a proxy that forwards, in every manner: whatever the
// proxy does, the source keeps its contract.
import { expect, it } from "vitest";
import { systemClock } from "../../src/platform/clock.ts";
import { createRegistrySource } from "../../src/source/registry/registry-source.ts";
import type { FetchOptions, Source } from "../../src/source/source.ts";
import { startDockerRegistry } from "../support/docker-registry.ts";
import {
  type ForwardProxy,
  type ProxyManner,
  startForwardProxy,
} from "../support/forward-proxy.ts";
import { type BuiltImage, buildImage, digestOf } from "../support/oci-image.ts";
import { pushBuiltImage } from "../support/push.ts";
import { runSourceContract } from "./source.ts";

async function startSite(manner: ProxyManner, image: BuiltImage) {
  const registry = await startDockerRegistry();
  await pushBuiltImage({ host: registry.host, repository: "team/app" }, "v1", image);
  const proxy = await startForwardProxy(manner);
  const originOf = (repository: string) => ({
    kind: "registry" as const,
    host: registry.host,
    repository,
  });
  return {
    proxy,
    registry,
    source: createRegistrySource({
      clock: systemClock,
      random: () => 0,
      peers: { proxy: { url: proxy.url, fallback: true, checkIntervalMs: 5_000 }, hosts: [] },
    }),
    origin: originOf("team/app"),
    emptyOrigin: originOf("team/nothing"),
    async dispose() {
      await proxy.close();
      await registry.stop();
    },
  };
}

const MANNERS: readonly ProxyManner[] = [
  "healthy",
  "stalling",
  "dying",
  "error-as-200",
  "wrong-range",
];
for (const manner of MANNERS) {
  runSourceContract(`a registry behind a ${manner} proxy`, (image) => startSite(manner, image));
}

const BYTES = Uint8Array.from({ length: 400_000 }, (_, at) => (at * 13 + (at >> 8)) & 255);

interface Reading {
  readonly source: Source;
  readonly proxy: ForwardProxy;
  readonly read: (options?: Partial<FetchOptions>) => Promise<Buffer>;
}

async function withReading(run: (reading: Reading) => Promise<void>): Promise<void> {
  const layer = { bytes: BYTES, mediaType: "application/vnd.erofs" };
  const site = await startSite("healthy", buildImage([layer]));
  const blob = { origin: site.origin, digest: digestOf(BYTES), size: BYTES.length };
  const read = async (options: Partial<FetchOptions> = {}): Promise<Buffer> => {
    const pieces: Uint8Array[] = [];
    const extent = { offset: 1_000, length: 300_000 };
    await site.source.readRange(blob, extent, (piece) => pieces.push(Uint8Array.from(piece)), {
      signal: new AbortController().signal,
      deadlineMs: systemClock.nowMs() + 20_000,
      urgency: "ahead",
      ...options,
    });
    return Buffer.concat(pieces);
  };
  try {
    await run({ source: site.source, proxy: site.proxy, read });
  } finally {
    await site.source.close();
    await site.dispose();
  }
}

const WANTED = Buffer.from(BYTES.subarray(1_000, 301_000));

it("a proxy that gives wrong bytes is bypassed by whoever finds that out, and by all after", async () => {
  await withReading(async ({ proxy, read }) => {
    proxy.manner = "wrong-bytes";
    expect((await read()).equals(WANTED)).toBe(false);
    expect((await read({ avoidPeers: true })).equals(WANTED)).toBe(true);
    const { asked } = proxy;
    expect((await read()).equals(WANTED)).toBe(true);
    expect(proxy.asked).toBe(asked);
  });
});

it("a proxy that dies for good costs one failed request after another, then none", async () => {
  await withReading(async ({ proxy, read }) => {
    expect((await read()).equals(WANTED)).toBe(true);
    await proxy.close();
    for (let at = 0; at < 10; at += 1) expect((await read()).equals(WANTED)).toBe(true);
    expect(proxy.asked).toBe(1);
  });
});

// SPDX-License-Identifier: Apache-2.0
// The daemon's rooms as they are wired: a [p2p] table of the configuration, a real registry behind
// a forwarding proxy, and what the metrics say of it.
import { afterEach, beforeEach, expect, it } from "vitest";
import { parseConfig } from "../../src/config/config.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { loadNative } from "../../src/platform/native.ts";
import { prometheusText } from "../../src/platform/prometheus.ts";
import { buildRooms } from "../../src/rooms.ts";
import type { Urgency } from "../../src/source/source.ts";
import { type RunningRegistry, startDockerRegistry } from "../support/docker-registry.ts";
import { type ForwardProxy, startForwardProxy } from "../support/forward-proxy.ts";
import { buildImage, digestOf } from "../support/oci-image.ts";
import { pushBuiltImage } from "../support/push.ts";
import { QuietLog } from "../support/quiet-log.ts";
import { tempDir } from "../support/temp-dir.ts";

const LAYER = { bytes: new Uint8Array(50_000).fill(7), mediaType: "application/vnd.erofs" };

let registry: RunningRegistry;
let proxy: ForwardProxy;

beforeEach(async () => {
  registry = await startDockerRegistry();
  const image = buildImage([LAYER]);
  await pushBuiltImage({ host: registry.host, repository: "team/app" }, "v1", image);
  proxy = await startForwardProxy();
});

afterEach(async () => {
  await proxy.close();
  await registry.stop();
});

async function rooms(p2p: readonly string[]) {
  const text = [
    `cache.dir = ${JSON.stringify(await tempDir())}`,
    'registry.docker_config = ""',
    "[p2p]",
    `proxy = ${JSON.stringify(proxy.url)}`,
    ...p2p,
  ];
  const config = parseConfig(text.join("\n"), "test.toml");
  const native = loadNative({ writerThreads: 1 });
  const log = new QuietLog();
  const built = await buildRooms({ config, native, log, onFillFailure: () => undefined });
  const origin = { kind: "registry", host: registry.host, repository: "team/app" } as const;
  const blob = { origin, digest: digestOf(LAYER.bytes), size: LAYER.bytes.length };
  const read = async (urgency: Urgency): Promise<number> => {
    let count = 0;
    const options = {
      signal: new AbortController().signal,
      deadlineMs: systemClock.nowMs() + 20_000,
      urgency,
    };
    const add = (piece: Uint8Array): void => {
      count += piece.length;
    };
    await built.source.readRange(blob, { offset: 0, length: blob.size }, add, options);
    return count;
  };
  return { ...built, read, origin };
}

it("what nobody waits for goes through the configured proxy, with its headers", async () => {
  const made = await rooms([
    "prefetch_hint = true",
    'piece = "1MiB"',
    'headers = { "X-Dragonfly-Tag" = "erofsd" }',
  ]);
  expect(await made.read("prefetch")).toBe(50_000);
  expect(proxy.asked).toBe(1);
  expect(proxy.lastHeaders).toMatchObject({
    "x-dragonfly-tag": "erofsd",
    "x-dragonfly-prefetch": "true",
  });
  await made.read("ahead");
  expect(proxy.lastHeaders["x-dragonfly-prefetch"]).toBeUndefined();
  expect(made.source.rangeHint?.(made.origin)).toMatchObject({ alignBytes: 1_048_576 });
  const { text } = await prometheusText(made.metrics);
  expect(text).toContain(`erofsd_registry_requests_total{host="${registry.host}",via="peers"} 2`);
  await made.source.close();
});

it("a proxy for other registries is not asked", async () => {
  const made = await rooms(['hosts = ["registry.example"]']);
  expect(await made.read("prefetch")).toBe(50_000);
  expect(proxy.asked).toBe(0);
  expect(made.source.rangeHint?.(made.origin)).toBeUndefined();
  await made.source.close();
});

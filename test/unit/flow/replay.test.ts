// SPDX-License-Identifier: Apache-2.0
// The replay of a trace: what it fetches, whom it does not hold up, and how it is found.

import { gzipSync } from "node:zlib";
import { describe, expect, test, vi } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import { Replay } from "../../../src/flow/prefetch/replay.ts";
import { TraceReplays } from "../../../src/flow/prefetch/trace-replays.ts";
import { buildArtifact, sha256 } from "../../../src/image/oci/artifact.ts";
import { OCI_MANIFEST } from "../../../src/image/oci/media-types.ts";
import type { FetchedManifest, Source } from "../../../src/source/source.ts";
import { TRACE_ARTIFACT } from "../../../src/source/traces.ts";
import { BLOCK_BYTES, type Digest } from "../../../src/units.ts";
import { FlowRig, asDigest, blocks, patternBytes, sameBytes } from "../../support/flow-rig.ts";
import { turns } from "../../support/turns.ts";

const B = BLOCK_BYTES;
const MANIFEST = asDigest("ab".repeat(32));

async function opened(count = 200) {
  const rig = new FlowRig({ slabsMax: 32 });
  const content = patternBytes(count * B);
  const blob = rig.blob(content);
  const object = await rig.open(blob);
  const replay = (...reads: readonly [number, number][]) =>
    new Replay({
      engine: rig.engine,
      clock: rig.clock,
      streamKeys: [`raw:${blob.digest}`],
      reads: reads.map(([first, end]) => ({ device: 0, ...blocks(first, end) })),
    });
  return { rig, blob, object, content, replay };
}

describe("a replay", () => {
  test("fetches in time order, ahead of readers, what is not cached yet", async () => {
    const { rig, object, replay } = await opened();
    rig.read(object, 40, 41);
    await rig.drain(object);
    rig.source.fetches.length = 0;
    const running = replay([100, 104], [40, 44], [20, 22], [100, 101]).run();
    await rig.drain(object);
    expect(rig.asked).toEqual(["ahead 100-104", "ahead 20-22"]);
    expect(await running).toEqual({ requests: 2, bytes: 6 * B });
    expect(rig.read(object, 100, 104).answer).toBe("complete");
  });

  test("is joined by who wants what it brings, who then reads nothing ahead of it", async () => {
    const { rig, object, replay, content } = await opened();
    const running = replay([100, 104], [60, 61]).run();
    await turns();
    const reads = [rig.read(object, 101, 102), rig.read(object, 60, 61)];
    await turns();
    // Without the trace each would bring a window of eight blocks.
    expect(rig.asked).toEqual(["ahead 100-104", "ahead 60-61"]);
    await rig.drain(object);
    await running;
    expect(reads.map(({ answer }) => answer)).toEqual(["complete", "complete"]);
    expect(
      sameBytes(object.file.subarray(100 * B, 104 * B), content.subarray(100 * B, 104 * B)),
    ).toBe(true);
  });

  test("leaves those alone who want something else, and ends with the trace", async () => {
    const { rig, object, replay } = await opened();
    const running = replay([100, 104]).run();
    await turns();
    rig.read(object, 10, 11);
    await turns();
    expect(rig.asked).toEqual(["ahead 100-104", "demand 10-18"]);
    await rig.drain(object);
    await running;
    rig.source.fetches.length = 0;
    rig.read(object, 103, 105);
    await turns();
    expect(rig.asked).toEqual(["demand 104-112"]);
    await rig.drain(object);
  });

  test("waits for a stream that is about to be opened", async () => {
    const rig = new FlowRig({ slabsMax: 32 });
    const blobs = [1, 2].map((salt) => rig.blob(patternBytes(20 * B, salt)));
    const [first, second] = blobs;
    if (first === undefined || second === undefined) throw new Error("two");
    const object = await rig.open(first);
    const replay = new Replay({
      engine: rig.engine,
      clock: rig.clock,
      streamKeys: blobs.map(({ digest }) => `raw:${digest}`),
      reads: [1, 0].map((device) => ({ device, ...blocks(4, 6) })),
    });
    const running = replay.run();
    await rig.clock.advance(100);
    expect(rig.asked).toEqual([]);
    const other = await rig.open(second);
    await rig.clock.advance(100);
    expect(rig.source.fetches).toHaveLength(2);
    await rig.drain(object, other);
    expect(await running).toEqual({ requests: 2, bytes: 4 * B });
  });

  test("ends when its source fails and fails, and harms no reader", async () => {
    const { rig, object, replay } = await opened();
    const reads = Array.from({ length: 60 }, (_, n): [number, number] => [3 * n, 3 * n + 1]);
    const running = replay(...reads).run();
    await turns();
    const down = new DaemonError({ code: "registry_unreachable", host: "r", detail: "down" });
    for (let n = 0; n < 60; n += 1) {
      rig.source.open[0]?.fail(down);
      await turns();
    }
    await running;
    expect(rig.source.fetches.length).toBeLessThan(30);
    expect(rig.fillFailures).toEqual([]);
    const read = rig.read(object, 0, 1);
    await rig.drain(object);
    expect(read.answer).toBe("complete");
  });

  test("ends with the image that nobody has open any more", async () => {
    const { rig, object, replay } = await opened();
    const running = replay([100, 104], [0, 1]).run();
    await turns();
    rig.close(object);
    await turns();
    await running;
    expect([rig.slabs.lentCount, rig.clock.pendingCount]).toEqual([0, 0]);
  });
});

/** A registry with the tag list of referrers, and one trace. */
function registryWith(rig: FlowRig, trace: string | undefined) {
  const packed = gzipSync(trace ?? "");
  const layer = {
    mediaType: "application/vnd.erofsd.trace.v1.ndjson+gzip",
    digest: sha256(packed),
    size: packed.length,
  };
  const subject = { mediaType: OCI_MANIFEST, digest: MANIFEST, size: 1 };
  const built = buildArtifact({ artifactType: TRACE_ARTIFACT, layer, subject }, "2026-01-01");
  const list = Buffer.from(JSON.stringify({ schemaVersion: 2, manifests: [built.entry] }));
  rig.source.put(layer.digest, packed);
  const asked: string[] = [];
  const manifestOf = (bytes: Uint8Array, digest: Digest): FetchedManifest => ({
    digest,
    mediaType: OCI_MANIFEST,
    bytes,
  });
  const source: Source = {
    fetchManifest(_, wanted) {
      asked.push(wanted);
      if (trace !== undefined && wanted === MANIFEST.replace(":", "-"))
        return Promise.resolve(manifestOf(list, sha256(list)));
      if (trace !== undefined && wanted === built.entry.digest)
        return Promise.resolve(manifestOf(built.bytes, built.entry.digest));
      const none = { code: "manifest_not_found", host: "r", repository: "app", wanted } as const;
      return Promise.reject(new DaemonError(none));
    },
    fetchReferrers(_, of) {
      asked.push(`referrers of ${of.subject}`);
      return Promise.resolve(undefined);
    },
    readRange: (blob, extent, onPiece) => {
      if (blob.digest !== layer.digest || extent.length !== packed.length) throw new Error("what?");
      onPiece(packed);
      return Promise.resolve();
    },
    blobSize: () => Promise.reject(new Error("nobody asks")),
    close: () => Promise.resolve(),
  };
  return { source, asked };
}

/** Unpacking is done by other threads, on a machine that may be busy. */
const PATIENCE = { timeout: 20_000, interval: 20 };

describe("an image that is opened", () => {
  function trace(digest: string, manifestDigest: string = MANIFEST): string {
    const image = { reference: "r/app:1", manifestDigest };
    const lines = [
      { erofsdTrace: 1, startedAt: "2026-01-01", version: "0", image },
      { stream: 7, digest, key: "k", sizeBytes: 200 * B },
      { ms: 9, stream: 7, ...blocks(3, 4) },
      { ms: 1, stream: 7, ...blocks(50, 52) },
      { end: "time", reads: 2, dropped: 0 },
    ];
    return lines.map((line) => JSON.stringify(line)).join("\n");
  }

  async function replays(textOf: (digest: string) => string | undefined) {
    const rig = new FlowRig({ slabsMax: 32 });
    const blob = rig.blob(patternBytes(200 * B));
    const registry = registryWith(rig, textOf(blob.digest));
    const { engine, clock, log } = rig;
    const content = {
      reference: "r/app:1",
      manifestDigest: MANIFEST,
      stream: { digest: blob.digest, size: blob.size, origin: blob.origin },
      devices: [],
      past: [],
    };
    const all = () => [{ volumeKey: "v", cookieKey: "k", binding: content }];
    const parts = { engine, clock, log, source: registry.source, bindings: { all } };
    const service = new TraceReplays(parts);
    const object = await rig.open(blob);
    const settle = async (): Promise<void> => {
      // Unpacking is done by other threads.
      for (let n = 0; n < 100; n += 1) await new Promise((resolve) => void setTimeout(resolve, 1));
      await rig.drain(object);
    };
    await settle();
    return { rig, blob, object, registry, service, settle };
  }

  test("has its trace looked for once, and replayed in time order", async () => {
    const { rig, blob, registry, object, settle } = await replays((digest) => trace(digest));
    await vi.waitFor(async () => {
      await settle();
      expect(rig.asked).toEqual(["ahead 50-52", "ahead 3-4"]);
    }, PATIENCE);
    const asked = registry.asked.length;
    expect(registry.asked[0]).toBe(`referrers of ${MANIFEST}`);
    rig.close(object);
    await rig.open(blob);
    await settle();
    expect(registry.asked).toHaveLength(asked);
  });

  test("is not asked about again for a minute when there is none, and then by one request", async () => {
    const { rig, blob, registry, object, settle } = await replays(() => undefined);
    expect(registry.asked).toHaveLength(2);
    rig.close(object);
    const again = await rig.open(blob);
    await settle();
    expect([rig.asked, registry.asked.length]).toEqual([[], 2]);
    rig.close(again);
    await rig.clock.advance(60_000);
    await rig.open(blob);
    await settle();
    expect(registry.asked.slice(2)).toEqual([MANIFEST.replace(":", "-")]);
  });

  test("gets nothing of a trace of another image, or of one that is damaged", async () => {
    const other = `sha256:${"cd".repeat(32)}`;
    for (const text of [trace(other), "nonsense"]) {
      const { rig, service } = await replays(() => text);
      expect(rig.asked).toEqual([]);
      service.stop();
    }
    const { rig } = await replays((digest) => trace(digest, other));
    await vi.waitFor(() => {
      expect(rig.log.lines.map(({ message }) => message)).toContainEqual(
        expect.stringContaining("no trace is replayed"),
      );
    }, PATIENCE);
    expect(rig.asked).toEqual([]);
  });
});

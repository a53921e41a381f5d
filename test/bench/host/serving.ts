// SPDX-License-Identifier: Apache-2.0
// The daemon's rooms behind a door without a kernel, wired as the daemon wires them.

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { parseConfig } from "../../../src/config/config.ts";
import { DaemonError } from "../../../src/errors.ts";
import { Admission } from "../../../src/flow/admission.ts";
import { NameResolver } from "../../../src/flow/name-resolver.ts";
import { Opener } from "../../../src/flow/open-image.ts";
import { Prefetcher } from "../../../src/flow/prefetch/prefetcher.ts";
import { Replay } from "../../../src/flow/prefetch/replay.ts";
import { admitReference } from "../../../src/flow/rafs/admit-reference.ts";
import { streamKey } from "../../../src/flow/streams.ts";
import { volumeKeyOf } from "../../../src/kernel/cachefiles/keys.ts";
import { systemClock as clock } from "../../../src/platform/clock.ts";
import type { Log } from "../../../src/platform/log.ts";
import { loadNative } from "../../../src/platform/native.ts";
import { buildRooms } from "../../../src/rooms.ts";
import { createReferenceResolver } from "../../../src/source/reference-resolver.ts";
import type { BenchImage } from "./images.ts";
import { BLOCK_BYTES } from "../../../src/units.ts";
import { startTrace } from "./start-trace.ts";
import { FileDoor, type FileObject } from "./file-door.ts";

export type Serving = Awaited<ReturnType<typeof serve>>;

/** What goes wrong is told on stderr; a benchmark whose reads fail says nothing. */
const log: Log = {
  trace: () => undefined,
  debug: () => undefined,
  info: () => undefined,
  warn: (fields, message) => {
    if ("code" in fields) console.error(`warn: ${message}`);
  },
  error: (_, message) => {
    console.error(`error: ${message}`);
  },
};

/** `configText`: TOML, but for the cache directory. */
export async function serve(home: string, configText: string) {
  const cacheDir = join(home, "cache");
  const objects = join(home, "objects");
  await mkdir(objects, { recursive: true });
  const config = parseConfig(
    `cache.dir = ${JSON.stringify(cacheDir)}\n${configText}`,
    "the benchmark's config",
  );
  const native = loadNative({ writerThreads: config.engine.writer_threads });
  const rooms = await buildRooms({ config, native, log, onFillFailure: () => undefined });
  const { source, slabs, engine, bindings, store, streams, admission } = rooms;
  const volumeKey = volumeKeyOf(config.kernel.domain_id);
  const openTimeoutMs = config.limits.open_timeout;
  const bootstrapBytesMax = config.limits.bootstrap;
  const names = new NameResolver({
    seed: () => Promise.resolve(),
    clock,
    log,
    engine,
    volumeKey,
    openTimeoutMs,
    mayBeMounted: () => Promise.resolve(false),
    bindings,
    streams,
    references: createReferenceResolver(source),
    admit: (image, options) =>
      admitReference({ source, store, admission, bootstrapBytesMax }, image, options),
    integrity: config.engine.integrity,
    servesCompressed: true,
    heldHeadsMax: Math.floor(slabs.slabsMax / 8),
  });
  const opener = new Opener({
    clock,
    log,
    engine,
    openTimeoutMs,
    names,
    volumeProblem: () => undefined,
    onFailure: () => undefined,
  });
  const door = new FileDoor(native, objects, new Admission(opener, engine));
  const prefetcher = new Prefetcher({ engine, clock, log, isBusy: () => opener.waitingCount > 0 });
  await rooms.warmUp();
  const stop = async (): Promise<void> => {
    prefetcher.stop();
    names.stop(new DaemonError({ code: "stopping" }));
    engine.abort(new DaemonError({ code: "stopping" }));
    await door.close();
    await source.close();
    await native.destroy();
  };
  return { ...rooms, config, volumeKey, door, prefetcher, stop };
}

/** Opens an image as a mount does. Resolves with what its files' bytes are read from. */
export async function mountImage(
  { door, volumeKey }: Serving,
  registry: string,
  image: BenchImage,
): Promise<FileObject> {
  const primary = await door.open({ volumeKey, cookieKey: `${registry}/${image.name}` });
  await door.read(primary, { offset: 0, length: BLOCK_BYTES });
  if (image.device === undefined) return primary;
  return await door.open({ volumeKey, cookieKey: image.device });
}

/** Fetches what the recorded program reads, as the daemon does that has found its trace. */
export function replayTrace(
  { engine, bindings, volumeKey }: Serving,
  registry: string,
  image: BenchImage,
): void {
  const binding = bindings.get({ volumeKey, cookieKey: `${registry}/${image.name}` });
  if (binding === undefined) throw new Error(`${image.name} is not bound`);
  const streamKeys = [binding.stream, ...binding.devices].map(streamKey);
  const device = image.device === undefined ? 0 : 1;
  const reads = startTrace().reads.map((read) => ({ device, ...read }));
  void new Replay({ engine, clock, streamKeys, reads }).run();
}

/** Fills what is mounted, as an image bound with prefetch on is filled. */
export function prefetchAll(
  { prefetcher, bindings, store, volumeKey }: Serving,
  registry: string,
  image: BenchImage,
): void {
  const key = { volumeKey, cookieKey: `${registry}/${image.name}` };
  const binding = bindings.get(key);
  if (binding === undefined) throw new Error(`${image.name} is not bound`);
  prefetcher.start(key.cookieKey, {
    devices: binding.devices,
    bootstrapPath: join(store.bootstrapDirectory, binding.stream.digest.slice("sha256:".length)),
    all: true,
    bandwidthRate: 0,
  });
}

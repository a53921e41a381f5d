// SPDX-License-Identifier: Apache-2.0
// The rooms as nydusd's adapter asks for them (nydusd/service.ts): names that a snapshotter
// binds, and a device that comes from, or goes to, another daemon.

import { join, resolve } from "node:path";
import type { Culled } from "./cache/cull.ts";
import { type Config, loadConfig, parseConfig } from "./config/config.ts";
import { DaemonError, asDaemonError } from "./errors.ts";
import { firstFile } from "./flow/rafs/admit-reference.ts";
import { keepWith, takeFromKeeper } from "./kernel/keeper.ts";
import { volumeKeyOf } from "./kernel/cachefiles/keys.ts";
import { openBoundDevice } from "./kernel/cachefiles/setup.ts";
import type { FdPassing, Keeper, ServiceOptions } from "./nydusd/rooms.ts";
import type { BlobService, ImageBind, ImageCounters, InflightRead } from "./nydusd/service.ts";
import { cullImage } from "./nydusd-cull.ts";
import { type Serving, accessProfile, assemble, countersOf, originOf } from "./nydusd-serving.ts";
import { systemClock as clock, sleep } from "./platform/clock.ts";
import type { Log } from "./platform/log.ts";
import { type Native, loadNative } from "./platform/native.ts";
import { optimizeLater } from "./platform/optimize-later.ts";
import { buildRooms } from "./rooms.ts";
import { ignoreBecause } from "./source/ignore.ts";
import type { BlobLocation } from "./source/source.ts";
import type { CookieName, StreamRecord } from "./state/bindings.ts";

/** How often a wait for the last answers looks whether they are given. */
const DRAIN_POLL_MS = 5;

let native: Native | undefined;

/** One addon, and one set of its threads, for all that is made here. */
function addon(config?: Config): Native {
  native ??= loadNative({ writerThreads: config?.engine.writer_threads ?? 4 });
  return native;
}

export function createFdPassing(): FdPassing {
  const native = addon();
  return {
    sendWithFd: (...words) => native.sendWithFd(...words),
    receiveWithFd: (...words) => native.receiveWithFd(...words),
  };
}

export function createKeeper({ socketPath, log }: { socketPath: string; log: Log }): Keeper {
  return {
    async take() {
      const { cachefiles } = await takeFromKeeper({ native: addon(), socketPath });
      return cachefiles;
    },
    async start(deviceFd) {
      const fds = { cachefiles: deviceFd };
      const link = await keepWith({ native: addon(), socketPath, log, fds });
      return {
        tell: (openObjects) => {
          link.objects(openObjects);
        },
        bye: () => link.bye(),
      };
    },
  };
}

/** Fault: config_invalid. The cache directory and its state are read when there is a device. */
export async function createBlobService(options: ServiceOptions): Promise<BlobService> {
  const own =
    options.config === undefined
      ? parseConfig("", "built-in defaults")
      : await loadConfig(options.config);
  const config: Config = {
    ...own,
    cache: { ...own.cache, dir: resolve(options.fscacheDir), tag: options.tag ?? own.cache.tag },
    engine: { ...own.engine, writer_threads: Math.max(1, options.threads) },
  };
  return new RoomsBlobService(config, addon(config), options.log);
}

class RoomsBlobService implements BlobService {
  readonly #config: Config;
  readonly #native: Native;
  readonly #log: Log;
  readonly #images = new Map<string, ImageBind & CookieName>();
  readonly #closing = new AbortController();
  #serving: Serving | undefined;
  #onFatal: (error: Error) => void = (error) => {
    this.#log.error({ err: error }, "a part of the daemon cannot be loaded");
  };
  #objectsListener: (count: number) => void = () => undefined;

  constructor(config: Config, native: Native, log: Log) {
    this.#config = config;
    this.#native = native;
    this.#log = log;
  }

  async openDevice(): Promise<void> {
    const { cache, kernel } = this.#config;
    const rooms = await this.#buildRooms(false);
    const deviceFd = openBoundDevice(this.#native, {
      devicePath: kernel.device,
      cacheDir: cache.dir,
      tag: cache.tag,
      limits: cache,
    });
    this.#serve(rooms, { deviceFd, adopted: false });
  }

  async adoptDevice(deviceFd: number): Promise<void> {
    this.#serve(await this.#buildRooms(true), { deviceFd, adopted: true });
  }

  get deviceFd(): number | undefined {
    return this.#serving?.deviceFd;
  }

  start(onFatal: (error: Error) => void): void {
    const { session, handler } = this.#served();
    this.#onFatal = onFatal;
    session.start(handler, onFatal);
  }

  async quiesce(): Promise<void> {
    const { session, opener, engine, prefetcher } = this.#served();
    session.pause();
    prefetcher.stop();
    const untilMs = clock.nowMs() + this.#config.limits.drain_timeout;
    const isBusy = () => engine.waitingReads > 0 || opener.waitingCount > 0;
    while (isBusy() && clock.nowMs() < untilMs) {
      await sleep(clock, DRAIN_POLL_MS, this.#closing.signal);
    }
  }

  async stop(): Promise<void> {
    const serving = this.#serving;
    if (serving === undefined) return;
    const error = new DaemonError({ code: "stopping" });
    this.#closing.abort(error);
    serving.handler.refuseNew(error);
    serving.prefetcher.stop();
    serving.engine.abort(error);
    await serving.session.stop(error);
    await serving.source.close();
    this.#serving = undefined;
  }

  async bind(image: ImageBind): Promise<void> {
    const { names, access, admission } = this.#served();
    const name = { volumeKey: volumeKeyOf(image.domainId), cookieKey: image.fsid };
    if (image.backend.kind === "registry") {
      const { host, repository, access: profile } = image.backend;
      access.set(host, repository, accessProfile(profile));
    }
    const origin = originOf(image.backend);
    const content = await admission.admit(
      {
        reference: `fsid ${image.fsid}`,
        manifestDigest: undefined,
        bootstrapPath: image.bootstrapPath,
        blobMeta: (id) => firstFile(image.blobMetaDirectories, `${id}.blob.meta`),
        locate: (digest): BlobLocation => ({ origin, digest, size: undefined }),
        known: names.get(name),
      },
      {
        signal: this.#closing.signal,
        deadlineMs: clock.nowMs() + this.#config.limits.read_timeout,
      },
    );
    await names.bind(name, content);
    this.#images.set(image.fsid, { ...image, ...name });
    this.#prefetch({ ...image, ...name });
    ignoreBecause("a reader will meet the same fault and tell it", this.#approach(content.devices));
  }

  /** A bootstrap is here already, so nothing has been asked of where the blobs are, which is one place. */
  async #approach(devices: readonly StreamRecord[]): Promise<void> {
    const device = devices.find(({ size }) => size > 0);
    const { streams, engine } = this.#served();
    if (device !== undefined) engine.approach(await streams.open(device));
  }

  async unbind({ domainId, fsid }: { domainId: string; fsid?: string }): Promise<number> {
    const { names, prefetcher } = this.#served();
    const volumeKey = volumeKeyOf(domainId);
    const found = [...names.all()].filter(
      (name) => name.volumeKey === volumeKey && (fsid === undefined || name.cookieKey === fsid),
    );
    for (const name of found) {
      prefetcher.cancel(name.cookieKey);
      await names.unbind(name);
    }
    return found.length;
  }

  async cull(key: string): Promise<Culled> {
    const serving = this.#served();
    const parts = { ...serving, native: this.#native, cacheDir: this.#config.cache.dir };
    const culled = await cullImage({ ...parts, signal: this.#closing.signal }, key);
    if (serving.names.bindingsOf(key).length === 0) this.#images.delete(key);
    return culled;
  }

  renew(fsid: string, credentials: { username: string; password: string }): boolean {
    const backend = this.#images.get(fsid)?.backend;
    if (backend === undefined) return false;
    if (backend.kind !== "registry") return true;
    const { host, repository, access } = backend;
    this.#served().access.set(host, repository, { ...accessProfile(access), credentials });
    for (const [key, image] of this.#images) {
      const other = image.backend;
      if (other.kind !== "registry" || other.host !== host || other.repository !== repository)
        continue;
      const renewed = { ...other, access: { ...other.access, credentials } };
      this.#images.set(key, { ...image, backend: renewed });
    }
    return true;
  }

  counters(fsid: string): ImageCounters | undefined {
    const image = this.#images.get(fsid);
    const serving = this.#serving;
    const binding = image === undefined ? undefined : serving?.names.get(image);
    if (image === undefined || serving === undefined || binding === undefined) return undefined;
    return countersOf(serving, { fsid, volumeKey: image.volumeKey, binding });
  }

  get bound(): readonly string[] {
    return [...(this.#serving?.names.all() ?? [])].map(({ cookieKey }) => cookieKey);
  }

  get inflight(): readonly InflightRead[] {
    const unixNowMs = Date.now();
    const nowMs = clock.nowMs();
    return [...(this.#serving?.engine.waiting() ?? [])].map(({ cookieKey, extent, sinceMs }) => ({
      fsidOrBlob: cookieKey,
      ...extent,
      sinceMs: unixNowMs - (nowMs - sinceMs),
    }));
  }

  get openObjects(): number {
    return this.#serving?.session.objectCount ?? 0;
  }

  onObjects(listener: (count: number) => void): void {
    this.#objectsListener = listener;
  }

  #buildRooms(adopted: boolean): ReturnType<typeof buildRooms> {
    const log = this.#log;
    const onFillFailure = (): void => undefined;
    return buildRooms({ config: this.#config, native: this.#native, log, onFillFailure }, adopted);
  }

  #serve(
    rooms: Awaited<ReturnType<typeof buildRooms>>,
    device: { deviceFd: number; adopted: boolean },
  ): void {
    const parts = { config: this.#config, native: this.#native, log: this.#log };
    const onObjects = (): void => {
      this.#objectsListener(this.openObjects);
    };
    this.#serving = assemble(rooms, { ...parts, ...device, onObjects });
    // What a first request needs is loaded while nobody waits.
    rooms.warmUp().then(optimizeLater, (error: unknown) => {
      this.#onFatal(asDaemonError(error));
    });
  }

  #served(): Serving {
    if (this.#serving !== undefined) return this.#serving;
    throw new DaemonError({ code: "cancelled", what: "an operation without a device" });
  }

  #prefetch({ fsid, prefetch, volumeKey }: ImageBind & CookieName): void {
    const { prefetcher, names, store } = this.#served();
    const binding = names.get({ volumeKey, cookieKey: fsid });
    if (binding === undefined || !prefetch.enabled) {
      prefetcher.cancel(fsid);
      return;
    }
    prefetcher.start(fsid, {
      devices: binding.devices,
      bootstrapPath: join(store.bootstrapDirectory, binding.stream.digest.slice("sha256:".length)),
      all: prefetch.all,
      bandwidthRate: prefetch.bandwidthRate,
    });
  }
}

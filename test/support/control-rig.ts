// SPDX-License-Identifier: Apache-2.0
// The control socket over the rooms that it tells of: a real server on a real unix socket, names,
// bindings and engine as the daemon has them, on a kernel and a registry that a test scripts.

import { request } from "node:http";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import type { CachedFile } from "../../src/cache/prune.ts";
import { viewConfig } from "../../src/config/config-view.ts";
import { type LiveEffects, changeLive } from "../../src/config/live-config.ts";
import { cacheOperations } from "../../src/control/cache-operations.ts";
import type { CookieName } from "../../src/state/bindings.ts";
import { type Config, parseConfig } from "../../src/config/config.ts";
import type { ControlOperations } from "../../src/control/control-operations.ts";
import { Activity } from "../../src/control/activity.ts";
import { EventHub } from "../../src/control/event-hub.ts";
import { imageFilesOf } from "../../src/control/image-files.ts";
import { imageHistoryOf } from "../../src/control/image-history.ts";
import { KnownImages } from "../../src/control/known-images.ts";
import { bindingObserver, failureObserver, observedHandler } from "../../src/control/observe.ts";
import { FailureLog, Readiness, controlOperations } from "../../src/control/operations.ts";
import { prefetchOperations } from "../../src/control/prefetch-operations.ts";
import { type ControlLimits, ControlServer } from "../../src/control/server.ts";
import { TraceRecorder } from "../../src/control/trace-recorder.ts";
import { DaemonError } from "../../src/errors.ts";
import { Admission } from "../../src/flow/admission.ts";
import { findWanted } from "../../src/flow/prefetch/find-wanted.ts";
import { Prefetcher } from "../../src/flow/prefetch/prefetcher.ts";
import { Prefetches } from "../../src/flow/prefetch/prefetches.ts";
import type { KernelHandler } from "../../src/kernel/transport.ts";
import type { MountDoors } from "../../src/mount-doors.ts";
import { Mounts } from "../../src/mounts/mounts.ts";
import { PushedCredentials } from "../../src/source/registry/credentials/pushed.ts";
import { PrefetchStore } from "../../src/state/prefetch-store.ts";
import { NamesRig, VOLUME } from "./names-rig.ts";
import { FakeOpen } from "./fake-kernel.ts";
import { FakeMounting } from "./fake-mounting.ts";
import { QuietLog } from "./quiet-log.ts";
import { tempDir } from "./temp-dir.ts";
import { ownPeers } from "./own-peers.ts";

export interface Reply {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>;
  readonly text: string;
  readonly json: unknown;
}

export class ControlRig {
  readonly names: NamesRig;
  readonly events: EventHub;
  readonly readiness = new Readiness();
  readonly failures = new FailureLog();
  readonly stopping = new AbortController();
  readonly handler: KernelHandler;
  readonly operations: ControlOperations;
  readonly server: ControlServer;
  readonly socketPath: string;
  readonly cacheDir: string;
  readonly log = new QuietLog();
  readonly mounting = new FakeMounting();
  readonly mounts: Mounts;
  readonly prefetches: Prefetches;
  readonly config: Config;
  /** What a door keeps; a file's id is its key. */
  cachedFiles: CachedFile[] = [];
  mountPoints: string[] = [];
  readonly taken: unknown[] = [];
  readonly effects: LiveEffects = {
    logLevel: (level) => this.taken.push(level),
    prefetchBandwidth: (bytes) => this.taken.push(bytes),
    windows: (...windows) => this.taken.push(windows),
    hedgePercent: (percent) => this.taken.push(percent),
  };
  /** How often it was told that what is to be filled has changed. */
  fillLooks = 0;

  private constructor(names: NamesRig, folder: string, options: ControlRigOptions) {
    this.names = names;
    this.socketPath = join(folder, "erofsd.sock");
    this.cacheDir = folder;
    const { engine, clock } = names.flow;
    this.events = new EventHub({ clock, unixMs: Date.now });
    names.bindings.observer = bindingObserver(this.events);
    this.handler = observedHandler(new Admission(names.opener, engine), this.events);
    const text = `[cache]\ndir = "${folder}"\n${options.config ?? ""}`;
    this.config = parseConfig(text, "test");
    const version = "1.2.3";
    const recorder = new TraceRecorder({ engine, clock, version, unixMs: Date.now });
    this.prefetches = prefetchesOf(names, folder, this.log);
    const lastFailure = this.failures.last.bind(this.failures);
    this.mounts = new Mounts({
      log: this.log,
      domainId: "erofsd",
      cacheDir: folder,
      openTimeoutMs: 15_000,
      names: names.names,
      bindings: names.bindings,
      fill: () => {
        this.fillLooks += 1;
      },
      doors: { pick: options.pick ?? pickCachefiles },
      startChild: this.mounting.startChild,
      failureSince: this.failures.since.bind(this.failures),
      stopping: this.stopping.signal,
      listEntries: () => Promise.resolve([...this.mounting.entries]),
    });
    const images = new KnownImages({
      bindings: names.bindings,
      engine,
      cacheDir: folder,
      lastFailure,
    });
    const { source } = names.flow;
    this.operations = controlOperations({
      upgrade: () => Promise.reject(new Error("nobody asks for it here")),
      files: undefined,
      mounts: this.mounts,
      clock,
      config: this.config,
      version,
      names: names.names,
      bindings: names.bindings,
      fill: () => {
        this.fillLooks += 1;
      },
      images,
      failures: this.failures,
      pushed: new PushedCredentials(),
      readiness: this.readiness,
      events: this.events,
      status: () => ({
        version,
        pid: process.pid,
        ready: true,
        kernelMessages: { open: 0, read: 0, readBytes: 0, close: 0, malformed: 0 },
        source: { requests: 0, bytes: 0, failures: 0 },
        cache: { writes: 0, writtenBytes: 0 },
        waitingReads: engine.waitingReads,
        objects: engine.openObjects.map(({ cookieKey, cachedBytes, sizeBytes }) => ({
          cookieKey,
          cachedBytes,
          sizeBytes,
        })),
      }),
      activity: () => new Activity(clock).report(engine),
      metrics: () => Promise.resolve({ contentType: "text/plain", text: "up 1\n" }),
      trace: recorder.record.bind(recorder),
      cache: cacheOperations({
        cached: { list: () => Promise.resolve(this.cachedFiles), isOf: isFileOf },
        images,
        bindings: names.bindings,
        names: names.names,
        prefetches: this.prefetches,
        isOpen: ({ volumeKey, cookieKey }) => engine.isOpen(volumeKey, cookieKey),
        mountsOf: () => Promise.resolve(this.mountPoints),
        unixMs: Date.now,
      }),
      changeConfig: (changes) => {
        changeLive(this.config, changes, this.effects);
        return viewConfig(this.config);
      },
      prefetch: prefetchOperations({
        prefetches: this.prefetches,
        names: names.names,
        stopping: this.stopping.signal,
      }),
      imageFiles: imageFilesOf(images, { source, clock, bootstrapDirectory: folder }),
      imageHistory: imageHistoryOf(images, { engine, clock, unixMs: Date.now }),
      stopping: this.stopping.signal,
    });
    const { socketPath, operations, log } = this;
    const { limits = {} } = options;
    this.server = new ControlServer({ peers: ownPeers(), socketPath, operations, log, limits });
  }

  /** Listens until the test is over. */
  static async start(options: ControlRigOptions = {}): Promise<ControlRig> {
    const rig = new ControlRig(await NamesRig.make(), await tempDir(), options);
    await rig.server.listen();
    rig.readiness.ready();
    onTestFinished(() => rig.server.close());
    return rig;
  }

  /** One request; an answer that is not JSON has the json `undefined`. */
  async ask(method: string, path: string, body?: string | Uint8Array): Promise<Reply> {
    const asking = send(this.socketPath, { method, path, body });
    return this.names.settled(asking);
  }

  /** Binds the image that `reference` resolves to, as a client would. */
  async register(reference: string): Promise<Reply> {
    return this.ask("POST", "/v1/images", JSON.stringify({ reference }));
  }

  /** The kernel opens a key and gets its answer. */
  async open(cookieKey: string): Promise<FakeOpen> {
    const { flow } = this.names;
    const open = new FakeOpen({ volumeKey: VOLUME, cookieKey }, (sizeBytes) =>
      flow.objectOf({ cookieKey, volumeKey: VOLUME, sizeBytes }),
    );
    this.handler.open(open);
    await this.names.until(() => open.answered);
    return open;
  }

  /** A fill of this key fails, as the engine tells it. */
  failFill(fsid: string, detail: string): void {
    const error = new DaemonError({ code: "registry_unreachable", host: "h", detail });
    failureObserver(this.failures, this.events).ofFill([fsid], error);
  }
}

export interface ControlRigOptions {
  /** Further TOML. */
  readonly config?: string;
  readonly limits?: Partial<ControlLimits>;
  /** By which door images are mounted; default: cachefiles alone. */
  readonly pick?: MountDoors["pick"];
}

function isFileOf({ id }: { readonly id: string }, { cookieKey }: CookieName): boolean {
  return id === cookieKey;
}

const pickCachefiles: MountDoors["pick"] = (wish) => {
  if (wish === "auto" || wish === "cachefiles") {
    return Promise.resolve({ kind: "cachefiles", files: undefined, isWhole: false });
  }
  return Promise.reject(new DaemonError({ code: "door_closed", wanted: wish, open: "cachefiles" }));
};
/** With a door at which every stream can be opened though it is not mounted. */
export function prefetchesOf(
  { flow, names, bindings, streams }: NamesRig,
  folder: string,
  log: QuietLog,
): Prefetches {
  const { engine, clock } = flow;
  const finding = {
    bootstrapDirectory: folder,
    openStream: streams.open.bind(streams),
    nowMs: () => clock.nowMs(),
  };
  return new Prefetches({
    engine,
    clock,
    log,
    prefetcher: new Prefetcher({ engine, clock, log }),
    holder: {
      async open(name) {
        const { stream, copenSize, release } = await names.find(name);
        const object = flow.objectOf({ ...name, sizeBytes: copenSize });
        engine.serve(stream, object);
        release();
        return {
          release: () => {
            flow.close(object);
          },
        };
      },
    },
    bindingOf: (name) => bindings.get(name),
    findWanted: ({ what }, binding, signal) => findWanted(finding, { binding, what, signal }),
    store: new PrefetchStore(join(folder, "prefetches")),
    unixMs: Date.now,
    runningMax: 2,
  });
}

function send(
  socketPath: string,
  asked: { method: string; path: string; body: string | Uint8Array | undefined },
): Promise<Reply> {
  const { method, path, body } = asked;
  return new Promise((resolve, reject) => {
    const asking = request({ socketPath, method, path }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (piece: string) => {
        text += piece;
      });
      response.on("error", reject).on("end", () => {
        const { statusCode: status = 0, headers } = response;
        const isJson = headers["content-type"] === "application/json" && text !== "";
        const json: unknown = isJson ? JSON.parse(text) : undefined;
        resolve({ status, headers, text, json });
      });
    });
    asking.on("error", reject);
    asking.end(body);
  });
}

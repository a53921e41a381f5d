// SPDX-License-Identifier: Apache-2.0
// The rooms behind the adapter, scripted: a service that remembers what it was asked, a supervisor
// that keeps one state, a keeper. And an adapter on them, with its socket in a directory of its own.

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import { Adapter } from "../../../src/nydusd/adapter.ts";
import type { Json } from "../../../src/nydusd/bind-fields.ts";
import { type Options, parseCommandLine } from "../../../src/nydusd/options.ts";
import type { FdPassing, Keeper, ServiceModule } from "../../../src/nydusd/rooms.ts";
import type {
  BlobService,
  ImageBind,
  ImageCounters,
  InflightRead,
} from "../../../src/nydusd/service.ts";
import { type Digest, isDigest } from "../../../src/units.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { QuietLog } from "../../support/quiet-log.ts";
import { tempDir } from "../../support/temp-dir.ts";
import { type Answered, ask, fieldOf } from "./api-client.ts";

const BLOB = digest(`sha256:${"2c".repeat(32)}`);

function digest(text: string): Digest {
  if (!isDigest(text)) throw new Error("no digest");
  return text;
}

export class ScriptedService implements BlobService {
  readonly calls: string[] = [];
  readonly images = new Map<string, ImageBind>();
  readonly renewed: { fsid: string; username: string; password: string }[] = [];
  isBusy = false;
  culls: "culled" | "absent" | "in use" = "culled";
  bindFailure: Error | undefined;
  inflight: readonly InflightRead[] = [];
  openObjects = 0;
  objectsChange: (count: number) => void = () => undefined;
  deviceFd: number | undefined;
  onFatal: (error: Error) => void = () => undefined;
  quiesced: Promise<void> = Promise.resolve();

  openDevice(): Promise<void> {
    this.calls.push("openDevice");
    if (this.isBusy) {
      return Promise.reject(new DaemonError({ code: "device_busy", path: "/dev/cachefiles" }));
    }
    this.deviceFd = 30;
    return Promise.resolve();
  }
  adoptDevice(fd: number): Promise<void> {
    this.calls.push(`adoptDevice ${fd}`);
    this.deviceFd = fd;
    return Promise.resolve();
  }
  start(onFatal: (error: Error) => void): void {
    this.calls.push("start");
    this.onFatal = onFatal;
  }
  quiesce(): Promise<void> {
    this.calls.push("quiesce");
    return this.quiesced;
  }
  stop(): Promise<void> {
    this.calls.push("stop");
    return Promise.resolve();
  }
  bind(image: ImageBind): Promise<void> {
    this.calls.push(`bind ${image.fsid}`);
    if (this.bindFailure !== undefined) return Promise.reject(this.bindFailure);
    this.images.set(image.fsid, image);
    return Promise.resolve();
  }
  unbind({ domainId, fsid }: { domainId: string; fsid?: string }): Promise<number> {
    const found = [...this.images.values()].filter(
      (image) => image.domainId === domainId && (fsid === undefined || fsid === image.fsid),
    );
    for (const image of found) this.images.delete(image.fsid);
    return Promise.resolve(found.length);
  }
  cull(key: string): Promise<"culled" | "absent" | "in use"> {
    this.calls.push(`cull ${key}`);
    return Promise.resolve(this.culls);
  }
  renew(fsid: string, credentials: { username: string; password: string }): boolean {
    this.renewed.push({ fsid, ...credentials });
    return this.images.has(fsid);
  }
  counters(fsid: string): ImageCounters | undefined {
    return this.images.has(fsid) ? COUNTERS : undefined;
  }
  onObjects(listener: (count: number) => void): void {
    this.objectsChange = listener;
  }
  get bound(): readonly string[] {
    return [...this.images.keys()];
  }
}

const COUNTERS: ImageCounters = {
  blobs: [BLOB],
  reads: 7,
  readBytes: 7000,
  failedReads: 2,
  fetchedBytes: 4000,
  cachedBytes: 5000,
  totalBytes: 9000,
  cachedChunks: 96,
  complete: false,
  prefetch: { requests: 3, bytes: 300, workers: 1, beganAtMs: 100, endedAtMs: 350 },
};

/** Keeps one state and one device, as the snapshotter does; `isListening` as long as it wants one. */
export class ScriptedSupervisor implements FdPassing {
  state: Uint8Array = new Uint8Array();
  fd: number | undefined;
  isListening = true;
  connections = 0;

  sendWithFd(_path: string, bytes: Uint8Array, fd: number | undefined): Promise<void> {
    if (!this.isListening) return Promise.reject(refused());
    this.connections += 1;
    if (fd === undefined) return Promise.resolve();
    this.state = bytes;
    this.fd = fd;
    return Promise.resolve();
  }
  receiveWithFd(): Promise<{ bytes: Uint8Array; fd: number | undefined }> {
    if (!this.isListening) return Promise.reject(refused());
    this.connections += 1;
    return Promise.resolve({ bytes: this.state, fd: this.fd });
  }
}

export class ScriptedKeeper implements Keeper {
  kept: number | undefined;
  readonly told: number[] = [];
  started: number | undefined;
  said: string[] = [];

  take(): Promise<number | undefined> {
    return Promise.resolve(this.kept);
  }
  start(deviceFd: number) {
    this.started = deviceFd;
    return Promise.resolve({
      tell: (count: number) => void this.told.push(count),
      bye: () => Promise.resolve(void this.said.push("bye")),
    });
  }
}

function refused(): DaemonError {
  const detail = "the supervisor's socket";
  return new DaemonError({
    code: "syscall_failed",
    syscall: "connect",
    errno: 111,
    errnoName: "ECONNREFUSED",
    detail,
  });
}

export class Rig {
  readonly clock = new FakeClock();
  readonly log = new QuietLog();
  readonly service = new ScriptedService();
  readonly supervisor = new ScriptedSupervisor();
  readonly keeper = new ScriptedKeeper();
  readonly left: number[] = [];
  readonly levels: string[] = [];
  readonly root: string;
  adapter: Adapter | undefined;
  /** Resolves the rooms; already resolved unless a test holds them back. */
  load: () => Promise<ServiceModule>;

  private constructor(root: string) {
    this.root = root;
    this.load = () => Promise.resolve(this.module);
  }

  static async make(): Promise<Rig> {
    const rig = new Rig(await tempDir());
    await mkdir(join(rig.root, "snapshots/2/fs/image"), { recursive: true });
    await writeFile(join(rig.root, "snapshots/2/fs/image/image.boot"), "RAFS");
    await mkdir(join(rig.root, "socket"), { recursive: true });
    return rig;
  }

  /** Another daemon on the same directories, as after the end of the one before. */
  again(): Rig {
    return new Rig(this.root);
  }

  get module(): ServiceModule {
    return {
      createBlobService: () => Promise.resolve(this.service),
      createFdPassing: () => this.supervisor,
      createKeeper: () => this.keeper,
    };
  }

  get apiSocket(): string {
    return join(this.root, "socket/api.sock");
  }

  options(flags: readonly string[] = []): Options {
    const words = ["singleton", "--fscache", join(this.root, "cache"), "--apisock", this.apiSocket];
    const command = parseCommandLine([...words, ...flags]);
    if (command.kind !== "serve") throw new Error("not to be served");
    return command.options;
  }

  get supervised(): readonly string[] {
    return ["--id", "d1", "--supervisor", join(this.root, "supervisor.sock")];
  }

  make(flags: readonly string[] = []): Adapter {
    const adapter = new Adapter({
      options: this.options(flags),
      load: () => this.load(),
      clock: this.clock,
      log: this.log,
      setLogLevel: (level) => this.levels.push(level),
      leave: (status) => this.left.push(status),
    });
    this.adapter = adapter;
    onTestFinished(() => adapter.close());
    return adapter;
  }

  async begin(flags: readonly string[] = []): Promise<this> {
    await this.make(flags).begin();
    return this;
  }

  ask(method: string, path: string, body?: unknown): Promise<Answered> {
    return ask(this.apiSocket, method, path, body);
  }

  async state(): Promise<unknown> {
    return fieldOf(await this.ask("GET", "/api/v1/daemon"), "state");
  }

  /** As the snapshotter sends it. */
  body(fsid: string, change: (config: Record<string, unknown>) => void = () => undefined): Json {
    const config: Record<string, unknown> = {
      id: fsid,
      backend_type: "registry",
      backend_config: {
        readahead: false,
        host: "127.0.0.1:5060",
        repo: "big",
        auth: Buffer.from("alice:one").toString("base64"),
        scheme: "http",
        skip_verify: true,
        proxy: { fallback: false },
        timeout: 5,
        connect_timeout: 5,
        retry_limit: 2,
      },
      cache_type: "fscache",
      cache_config: { work_dir: join(this.root, "snapshots/2/fs") },
      prefetch_config: {
        enable: false,
        threads_count: 2,
        merging_size: 1048576,
        bandwidth_rate: 0,
        prefetch_all: false,
      },
      metadata_path: join(this.root, "snapshots/2/fs/image/image.boot"),
    };
    change(config);
    return { type: "bootstrap", id: fsid, domain_id: fsid, config };
  }

  put(fsid: string): Promise<Answered> {
    return this.ask("PUT", "/api/v2/blobs", this.body(fsid));
  }
}

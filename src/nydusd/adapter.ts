// SPDX-License-Identifier: Apache-2.0
// `nydusd singleton --fscache` out of erofsd's rooms: the socket first, then the rooms, then the
// device, from whoever has it. Who may have it, in this order:
//
//   nobody            open it, and serve what the journal knows
//   the supervisor    a daemon before us died: INIT, and wait to be asked (lifecycle.ts)
//   our own keeper    the same where there is no supervisor: take it, and serve
//   a running daemon  an error, unless we were started to follow it (--upgrade): INIT
//
// The process itself (signals, exit) is run.ts's.

import { readdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { DaemonError } from "../errors.ts";
import type { Clock } from "../platform/clock.ts";
import type { Log } from "../platform/log.ts";
import { isAnswered } from "../platform/private-socket.ts";
import { textOf } from "./api-error.ts";
import { buildInfo } from "./build-info.ts";
import { ApiServer } from "./http.ts";
import { Images } from "./images.ts";
import { Journal, journalPath } from "./journal.ts";
import { Lifecycle } from "./lifecycle.ts";
import type { NydusdLogLevel, Options } from "./options.ts";
import type { FdPassing, Keeper, KeeperLink, ServiceModule } from "./rooms.ts";
import { type Served, answer } from "./routes.ts";
import type { BlobService } from "./service.ts";
import { Supervisor } from "./supervisor.ts";

/** A question for our state waits so long for it to settle: 20 questions are all we ever get. */
const SETTLE_MS = 100;
const BYE_MS = 300;
/** How often a device in other hands is tried again. */
const RETRY_MS = 1000;
const PARENT_POLL_MS = 250;
/** The socket of a daemon, and of those that follow it in upgrades. */
const API_SOCKET = /^api[0-9]*\.sock$/;

export interface AdapterParts {
  readonly options: Options;
  /** Loads the rooms; called once, when the socket listens. */
  readonly load: () => Promise<ServiceModule>;
  readonly clock: Clock;
  readonly log: Log;
  readonly setLogLevel: (level: NydusdLogLevel) => void;
  /** Ends the process. */
  readonly leave: (status: number) => void;
}

interface Rooms extends Served {
  readonly keeper: Keeper;
}

export class Adapter {
  readonly #parts: AdapterParts;
  readonly #server: ApiServer;
  readonly #served: Promise<Served>;
  #serve: (served: Served) => void = () => undefined;
  #rooms: Rooms | undefined;
  #link: KeeperLink | undefined;
  #isLeaving = false;

  constructor(parts: AdapterParts) {
    this.#parts = parts;
    this.#served = new Promise((resolve) => {
      this.#serve = resolve;
    });
    const routes = {
      fscacheDir: parts.options.fscacheDir,
      served: this.#served,
      info: () => this.#info(),
      setLogLevel: parts.setLogLevel,
      onRefused: (reason: string) => {
        parts.log.warn({}, `a request was refused: ${reason}`);
      },
      leave: () => {
        this.#isLeaving = true;
        this.#server.removeFile();
        parts.leave(0);
      },
    };
    this.#server = new ApiServer({
      socketPath: parts.options.apiSocket,
      log: parts.log,
      respond: (request) => answer(request, routes),
    });
  }

  /** Resolves when it serves, or waits to be asked. Rejects when it can do neither. */
  async begin(): Promise<void> {
    const { options, log } = this.#parts;
    const { foundStale } = await this.#server.listen({ replaceLive: options.isUpgrade });
    log.info({ apiSocket: options.apiSocket, pid: process.pid }, "API socket listens");
    if (options.ignored.length > 0) {
      log.info({ flags: options.ignored }, "flags without a meaning here were ignored");
    }
    try {
      this.#rooms = await this.#build();
      this.#serve(this.#rooms);
      await this.#findDevice(this.#rooms, foundStale);
    } catch (error) {
      this.#server.removeFile();
      throw error;
    }
  }

  /** In order: the socket's file, the rooms, the keeper. */
  async stop(): Promise<void> {
    this.#isLeaving = true;
    this.#server.removeFile();
    const { lifecycle, service } = this.#rooms ?? {};
    if (service === undefined || lifecycle === undefined) return;
    if (this.#parts.options.supervisor !== undefined && service.openObjects > 0) {
      // The supervisor holds the device: what is unanswered is for the next daemon, not an error.
      await lifecycle.quiesce();
      return;
    }
    await service.stop();
    await Promise.race([this.#link?.bye().catch(() => undefined), sleep(BYE_MS)]);
  }

  /** Closes the socket too; for tests. */
  async close(): Promise<void> {
    await this.stop();
    await this.#rooms?.lifecycle.inTurn(() => Promise.resolve());
    await this.#server.close();
  }

  async #build(): Promise<Rooms> {
    const { options, log, clock } = this.#parts;
    const { fscacheDir, tag, threads, config } = options;
    const module = await this.#parts.load();
    const service = await module.createBlobService({ fscacheDir, tag, threads, log, config });
    const socketPath = join(fscacheDir, "state", "keeper", "keeper.sock");
    const keeper = module.createKeeper({ socketPath, log });
    const journal = new Journal(journalPath(fscacheDir));
    const images = new Images({ service, journal, log, fscacheDir });
    const lifecycle = new Lifecycle({
      clock,
      log,
      service,
      images,
      journal,
      fscacheDir,
      threads,
      supervisor: this.#supervisor(module.createFdPassing()),
      isUpgrade: options.isUpgrade,
      isOldGone: () => isNobodyBeside(options.apiSocket),
      onFatal: (error) => {
        this.#fail(error);
      },
      onRunning: () => {
        log.info({}, "serving");
        if (options.supervisor === undefined) void this.#keep(service, keeper);
      },
    });
    return { service, images, lifecycle, keeper };
  }

  #supervisor(passing: FdPassing): Supervisor | undefined {
    const { options, log } = this.#parts;
    if (options.supervisor === undefined) return undefined;
    return new Supervisor({ socketPath: options.supervisor, passing, log });
  }

  async #findDevice({ lifecycle, service, keeper }: Rooms, foundStale: boolean): Promise<void> {
    const { options, log } = this.#parts;
    if (options.isUpgrade) {
      lifecycle.beginBehind();
      // Asked for right away: the supervisor waits for us since before we were started, and briefly.
      await lifecycle.inherit().catch((error: unknown) => {
        log.warn({}, `no state from the supervisor yet: ${textOf(error)}`);
      });
      return;
    }
    const busy = await open(service);
    if (busy === undefined) {
      await lifecycle.beginAlone();
      return;
    }
    if (await this.#isLeft(lifecycle)) return;
    const kept = await keeper.take();
    if (kept !== undefined) {
      log.info({}, "the keeper gave the device back");
      await service.adoptDevice(kept);
      await lifecycle.beginAlone();
      return;
    }
    // A socket's file that nobody answers at is what a killed daemon leaves: its device is coming
    // free, or comes by a takeover. Without one, another daemon serves somewhere else.
    if (options.supervisor === undefined || !foundStale) throw busy;
    lifecycle.beginBehind();
    this.#retryDevice(lifecycle, service);
  }

  /** True when the supervisor had something for us, which now waits for a takeover. */
  async #isLeft(lifecycle: Lifecycle): Promise<boolean> {
    const { options, log } = this.#parts;
    if (options.supervisor === undefined) return false;
    try {
      await lifecycle.inherit();
      lifecycle.beginBehind();
      return true;
    } catch (error) {
      log.warn({}, `nothing from the supervisor: ${textOf(error)}`);
      return false;
    }
  }

  #retryDevice(lifecycle: Lifecycle, service: BlobService): void {
    const retry = async (): Promise<void> => {
      if (this.#isLeaving) return;
      const busy = await lifecycle.inTurn(async () => {
        if (lifecycle.state !== "INIT") return undefined;
        const busy = await open(service);
        if (busy === undefined) await lifecycle.beginAlone();
        return busy;
      });
      if (busy !== undefined) this.#retryDevice(lifecycle, service);
    };
    this.#parts.clock.after(RETRY_MS, () => {
      retry().catch((error: unknown) => {
        this.#fail(error);
      });
    });
  }

  async #info(): Promise<object> {
    const { options } = this.#parts;
    if (this.#rooms?.lifecycle.isDecided !== true && !options.isUpgrade) {
      const decided = this.#served.then(({ lifecycle }) => lifecycle.decided);
      await Promise.race([decided, sleep(SETTLE_MS, undefined, { ref: false })]);
    }
    return {
      version: buildInfo(),
      id: options.id ?? null,
      supervisor: options.supervisor ?? null,
      state: this.#rooms?.lifecycle.state ?? "INIT",
      backend_collection: null,
    };
  }

  /** Without a supervisor a crash would lose the device, and with it all mounted images. */
  async #keep(service: BlobService, keeper: Keeper): Promise<void> {
    const { log } = this.#parts;
    try {
      if (service.deviceFd === undefined) return;
      const link = await keeper.start(service.deviceFd);
      this.#link = link;
      service.onObjects((count) => {
        if (!this.#isLeaving) link.tell(count);
      });
      link.tell(service.openObjects);
      this.#watchParent(service, process.ppid);
    } catch (error) {
      log.warn(
        {},
        `no keeper: a crash of this daemon would take the device along: ${textOf(error)}`,
      );
    }
  }

  // A snapshotter that believes something to be mounted leaves its daemon behind, and without a
  // supervisor that belief is often wrong. Nobody needs a daemon that serves nothing to nobody.
  #watchParent(service: BlobService, parent: number): void {
    this.#parts.clock.after(PARENT_POLL_MS, () => {
      if (this.#isLeaving) return;
      const isAlone = process.ppid !== parent && this.#server.connections === 0;
      if (!isAlone || service.openObjects > 0) {
        this.#watchParent(service, parent);
        return;
      }
      this.#parts.log.info({}, "the snapshotter is gone and nothing is mounted: leaving");
      const leave = (): void => {
        this.#parts.leave(0);
      };
      this.stop().then(leave, leave);
    });
  }

  /** Leaves as a crash would: what waits is for the next daemon, and so is the socket's file. */
  #fail(error: unknown): void {
    if (this.#isLeaving) return;
    this.#isLeaving = true;
    this.#parts.log.error({}, `the daemon cannot go on: ${textOf(error)}`);
    this.#parts.leave(1);
  }
}

/** Undefined when the device is open now; the fault when somebody else has it. */
async function open(service: BlobService): Promise<DaemonError | undefined> {
  try {
    await service.openDevice();
    return undefined;
  } catch (error) {
    if (error instanceof DaemonError && error.fault.code === "device_busy") return error;
    throw error;
  }
}

/** True when no daemon answers at the other API sockets of this directory. */
async function isNobodyBeside(apiSocket: string): Promise<boolean> {
  const directory = dirname(apiSocket);
  const own = basename(apiSocket);
  const names = await readdir(directory).catch(() => []);
  const others = names.filter((name) => name !== own && API_SOCKET.test(name));
  const answered = await Promise.all(others.map((name) => isAnswered(join(directory, name))));
  return !answered.includes(true);
}

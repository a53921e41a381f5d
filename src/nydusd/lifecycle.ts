// SPDX-License-Identifier: Apache-2.0
// The daemon's states as nydusd tells them, and the ways from one to the next:
//
//   INIT --takeover--> READY --start--> RUNNING      after another daemon
//   INIT ----------------------------> RUNNING       by itself, when the device is free or kept
//
// Taking over is asked for by whoever started us. Should it not come (the snapshotter gave up, or
// died) readers of all images would hang, so after a while the service begins unasked: UNASKED_MS
// is longer than a living snapshotter ever takes (it looks 20 times, at most 200 ms apart, and a
// takeover follows at once), and short for a reader.

import type { Clock } from "../platform/clock.ts";
import type { Log } from "../platform/log.ts";
import { takeoverFailed, textOf, unexpectedEvent } from "./api-error.ts";
import { deferred } from "./deferred.ts";
import type { Images } from "./images.ts";
import type { Journal, Recorded } from "./journal.ts";
import { recollect } from "./recollection.ts";
import type { BlobService } from "./service.ts";
import { type SavedState, formatState } from "./state-format.ts";
import type { Inheritance, Supervisor } from "./supervisor.ts";

export const UNASKED_MS = 3000;
/** Reads that take longer are the next daemon's: the kernel asks it for them again. */
const QUIESCE_MS = 5000;
/** How often the new daemon of an upgrade looks whether the old one has gone without a word. */
const ORPHAN_MS = 5000;

export type State = "INIT" | "READY" | "RUNNING";

export interface LifecycleParts {
  readonly clock: Clock;
  readonly log: Log;
  readonly service: BlobService;
  readonly images: Images;
  readonly journal: Journal;
  readonly supervisor: Supervisor | undefined;
  readonly isUpgrade: boolean;
  readonly fscacheDir: string;
  readonly threads: number;
  /** False while another daemon answers at a socket beside ours. */
  readonly isOldGone: () => Promise<boolean>;
  /** The device itself failed. */
  readonly onFatal: (error: Error) => void;
  /** Called once when kernel requests are taken. */
  readonly onRunning: () => void;
}

export class Lifecycle {
  readonly #parts: LifecycleParts;
  /** Resolves when it is known whether we begin by ourselves. */
  readonly #decided = deferred();
  /** Resolves when images can be bound to something. */
  readonly #ready = deferred();
  #state: State = "INIT";
  #isUnasked = false;
  #recorded: Recorded | undefined;
  #inheritance: Promise<Inheritance> | undefined;
  #inherited: SavedState | undefined;
  #cancelUnasked: () => void = () => undefined;
  /** Changes of state and of images happen one after the other. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(parts: LifecycleParts) {
    this.#parts = parts;
  }

  get state(): State {
    return this.#state;
  }

  get isDecided(): boolean {
    return this.#decided.isResolved;
  }

  get decided(): Promise<void> {
    return this.#decided.promise;
  }

  get ready(): Promise<void> {
    return this.#ready.promise;
  }

  /** Runs `work` when what was asked before is done. */
  inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(work, work);
    this.#last = turn.catch(() => undefined);
    return turn;
  }

  /** The device is ours, freshly opened or out of a keeper's hands: INIT -> RUNNING. */
  async beginAlone(): Promise<void> {
    await this.#recall(undefined);
    this.#state = "READY";
    this.#run();
    await this.#parts.images.save();
    this.#decided.resolve();
  }

  /** Another daemon has, or had, the device: stays INIT until asked, or until nobody asks. */
  beginBehind(): void {
    this.#decided.resolve();
  }

  /** What the daemon before us left, as far as it can be had yet. */
  inherit(): Promise<Inheritance> {
    const { supervisor, clock, isUpgrade } = this.#parts;
    if (supervisor === undefined) return Promise.reject(new Error("there is no --supervisor"));
    this.#inheritance ??= supervisor.fetch().then(
      (inheritance) => {
        // The old daemon of an upgrade still serves: nothing may begin before it is told to leave.
        if (!isUpgrade)
          this.#cancelUnasked = clock.after(UNASKED_MS, () => void this.serveUnasked());
        return inheritance;
      },
      (error: unknown) => {
        this.#inheritance = undefined;
        throw error;
      },
    );
    return this.#inheritance;
  }

  /** INIT -> READY. */
  async takeover(): Promise<void> {
    const isEarly = !this.isDecided;
    await this.decided;
    await this.inTurn(async () => {
      if (this.#state !== "INIT") {
        if (this.#isUnasked || isEarly) return;
        throw unexpectedEvent("Upgrade", "Takeover");
      }
      await this.#adopt();
    });
  }

  /** READY -> RUNNING. */
  async start(): Promise<void> {
    const isEarly = !this.isDecided;
    await this.decided;
    await this.inTurn(async () => {
      if (this.#state === "RUNNING" && (this.#isUnasked || isEarly)) return;
      if (this.#state !== "READY") throw unexpectedEvent("Configure", "Start");
      await this.#startReady();
    });
  }

  /** What nobody asked for in time; harmless when they did. */
  async serveUnasked(): Promise<void> {
    try {
      await this.inTurn(async () => {
        if (this.#state === "RUNNING") return;
        this.#parts.log.warn(
          { state: this.#state },
          "nobody asked for a takeover: serving unasked",
        );
        this.#isUnasked = true;
        if (this.#state === "INIT") await this.#adopt();
        await this.#startReady();
      });
    } catch (error) {
      this.#parts.log.error({}, `serving unasked failed: ${textOf(error)}`);
    }
  }

  /** Gives the supervisor our state. Connects in any case. */
  async sendFd(): Promise<void> {
    const { supervisor, service, images, journal, fscacheDir, threads } = this.#parts;
    if (supervisor === undefined) throw takeoverFailed("there is no --supervisor");
    const state = () =>
      formatState({ serial: journal.serial, threads, fscacheDir, images: images.bodies });
    try {
      await supervisor.save(state, service.deviceFd);
    } catch (error) {
      throw takeoverFailed(`the state cannot be sent: ${textOf(error)}`, { cause: error });
    }
  }

  /** Takes no new kernel requests, and ends those taken: the next daemon may begin. */
  async quiesce(): Promise<void> {
    if (this.#state !== "RUNNING") return;
    const late = deferred();
    const cancel = this.#parts.clock.after(QUIESCE_MS, () => {
      this.#parts.log.warn({}, "leaving with reads unanswered: the next daemon gets them again");
      late.resolve();
    });
    await Promise.race([this.#parts.service.quiesce(), late.promise]);
    cancel();
  }

  async #adopt(): Promise<void> {
    let inheritance: Inheritance;
    try {
      inheritance = await this.inherit();
    } catch (error) {
      throw takeoverFailed(textOf(error), { cause: error });
    }
    try {
      await this.#parts.service.adoptDevice(inheritance.deviceFd);
    } catch (error) {
      throw takeoverFailed(textOf(error), { cause: error });
    }
    this.#inherited = inheritance.state;
    await this.#recall(inheritance.state);
    this.#state = "READY";
    this.#ready.resolve();
    if (this.#parts.isUpgrade) this.#watchOld();
  }

  /** Whoever drives the upgrade may die after the old daemon left: then `start` never comes. */
  #watchOld(): void {
    const { clock, isOldGone } = this.#parts;
    const look = async (): Promise<void> => {
      if (this.#state !== "READY") return;
      if (await isOldGone()) await this.serveUnasked();
      else this.#watchOld();
    };
    this.#cancelUnasked = clock.after(ORPHAN_MS, () => void look());
  }

  async #startReady(): Promise<void> {
    this.#cancelUnasked();
    // While we were READY the old daemon of an upgrade may have written more; only now is it gone.
    if (this.#parts.isUpgrade) await this.#recall(this.#inherited);
    this.#run();
    await this.#parts.images.save();
  }

  async #recall(state: SavedState | undefined): Promise<void> {
    const { journal, images, log } = this.#parts;
    this.#recorded = await journal
      .load((aside) => {
        log.warn({ aside }, "the journal of images is damaged and was set aside");
      })
      .catch((error: unknown) => {
        log.error({ path: journal.path }, `the journal cannot be read: ${textOf(error)}`);
        return this.#recorded;
      });
    const found = recollect(state, this.#recorded);
    journal.follow(found);
    await images.restore(found.images);
    log.info({ from: found.from, images: images.bodies.length }, "images restored");
  }

  #run(): void {
    const { service, onFatal, onRunning } = this.#parts;
    service.start(onFatal);
    this.#state = "RUNNING";
    this.#ready.resolve();
    onRunning();
  }
}

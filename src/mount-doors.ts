// SPDX-License-Identifier: Apache-2.0
// By which door an image is mounted: the daemon's own, or, where that is asked for, whole, which
// needs nothing of the kernel but EROFS.

import type { Config, DoorKind, DoorWish } from "./config/config.ts";
import { type OpenDoor, openFull } from "./doors.ts";
import { DaemonError } from "./errors.ts";
import { FileMounts } from "./file-mounts.ts";
import type { Streams } from "./flow/streams.ts";
import type { FullSession } from "./kernel/full/session.ts";
import type { KernelHandler } from "./kernel/transport.ts";
import { systemClock as clock } from "./platform/clock.ts";
import type { Log } from "./platform/log.ts";
import type { Native } from "./platform/native.ts";

export interface MountWay {
  readonly kind: DoorKind;
  /** What prepares a mount; undefined where the kernel itself asks for an image. */
  readonly files: Pick<FileMounts, "prepare"> | undefined;
  /** All of it is fetched first. */
  readonly isWhole: boolean;
}

export interface MountDoorsParts {
  readonly config: Config;
  readonly native: Native;
  readonly log: Log;
  readonly streams: Pick<Streams, "open">;
  /** The daemon's own door. */
  readonly opened: OpenDoor;
}

export class MountDoors {
  readonly #parts: MountDoorsParts;
  readonly #own: MountWay;
  #handler: KernelHandler | undefined;
  /** Beside cachefiles, when somebody wants it. */
  #full: Promise<FullSession> | undefined;

  constructor(parts: MountDoorsParts) {
    this.#parts = parts;
    const { opened } = parts;
    const isWhole = opened.kind === "full";
    const files = opened.kind === "cachefiles" ? undefined : this.#filesOf(opened.door);
    this.#own = { kind: opened.kind, files, isWhole };
  }

  /** `handler` serves what is mounted whole beside the daemon's own door. */
  start(handler: KernelHandler): void {
    this.#handler = handler;
  }

  /** What prepares mounts at the daemon's own door, where their files are there at once. */
  get prepared(): MountWay["files"] {
    return this.#own.isWhole ? undefined : this.#own.files;
  }

  /** Faults: door_closed; for `full` those of opening it. */
  async pick(wish: DoorWish): Promise<MountWay> {
    const own = this.#own;
    if (wish === "auto" || wish === own.kind) return own;
    if (wish !== "full") {
      throw new DaemonError({ code: "door_closed", wanted: wish, open: own.kind });
    }
    const files = own.files ?? this.#filesOf(await this.#beside());
    return { kind: "full", files, isWhole: true };
  }

  async stop(error: DaemonError): Promise<void> {
    const full = await this.#full?.catch(() => undefined);
    await full?.stop(error);
  }

  #beside(): Promise<FullSession> {
    this.#full ??= this.#open().catch((error: unknown) => {
      this.#full = undefined;
      throw error;
    });
    return this.#full;
  }

  async #open(): Promise<FullSession> {
    const handler = this.#handler;
    if (handler === undefined) {
      throw new DaemonError({ code: "daemon_not_ready", detail: "the daemon is starting" });
    }
    const { config, native, log } = this.#parts;
    const session = await openFull(config, native, log);
    session.start(handler);
    return session;
  }

  #filesOf(door: FullSession | Exclude<OpenDoor, { kind: "cachefiles" }>["door"]): FileMounts {
    const { log, streams } = this.#parts;
    return new FileMounts({ door, clock, log, streams });
  }
}

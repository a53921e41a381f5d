// SPDX-License-Identifier: Apache-2.0
// The two talks with a supervisor, each on a connection of its own that we open: giving it our
// state with the device, and getting back what the daemon before us gave.
//
// Once it asked for a state the snapshotter waits for a connection without any limit, and all
// container starts wait with it: so `save` connects whatever happens, if only to close again.

import { setTimeout as sleep } from "node:timers/promises";
import type { Log } from "../platform/log.ts";
import { textOf } from "./api-error.ts";
import type { FdPassing } from "./rooms.ts";
import { type SavedState, parseState } from "./state-format.ts";

const TIMEOUT_MS = 10_000;
/** Sanity: a thousand images are 2 MB. */
const STATE_BYTES_MAX = 256 * 1024 * 1024;
const NOTHING = new Uint8Array();
const CONNECT_TRIES = 5;
const CONNECT_AGAIN_MS = 200;

/** What the daemon before us left. */
export interface Inheritance {
  readonly deviceFd: number;
  /** undefined when it could not be read, which was said. */
  readonly state: SavedState | undefined;
}

export class Supervisor {
  readonly #socketPath: string;
  readonly #passing: FdPassing;
  readonly #log: Log;

  constructor(parts: { socketPath: string; passing: FdPassing; log: Log }) {
    this.#socketPath = parts.socketPath;
    this.#passing = parts.passing;
    this.#log = parts.log;
  }

  /** Gives `state` and the device; without a device only knocks. Rejects when nobody listens. */
  async save(state: () => Uint8Array, deviceFd: number | undefined): Promise<void> {
    if (deviceFd === undefined) {
      await this.#send(NOTHING, undefined);
      return;
    }
    let bytes: Uint8Array;
    try {
      bytes = state();
    } catch (error) {
      await this.#send(NOTHING, undefined);
      throw error;
    }
    await this.#send(bytes, deviceFd);
  }

  async #send(bytes: Uint8Array, fd: number | undefined): Promise<void> {
    const startMs = performance.now();
    for (let left = CONNECT_TRIES; ; left -= 1) {
      try {
        await this.#passing.sendWithFd(this.#socketPath, bytes, fd, TIMEOUT_MS);
        return;
      } catch (error) {
        // One that listens and does not read has had its time: the caller waits at most 30 s.
        if (left <= 1 || performance.now() - startMs > TIMEOUT_MS / 2) throw error;
        this.#log.warn({ left }, `the supervisor cannot be reached: ${textOf(error)}`);
        await sleep(CONNECT_AGAIN_MS);
      }
    }
  }

  /** Rejects when nobody listens there, or when no device came. */
  async fetch(): Promise<Inheritance> {
    const { bytes, fd } = await this.#passing.receiveWithFd(
      this.#socketPath,
      NOTHING,
      TIMEOUT_MS,
      STATE_BYTES_MAX,
    );
    if (fd === undefined) throw new Error("the supervisor has no device for us");
    return { deviceFd: fd, state: this.#read(bytes) };
  }

  #read(bytes: Uint8Array): SavedState | undefined {
    try {
      return parseState(bytes);
    } catch (error) {
      this.#log.error(
        { bytes: bytes.length },
        `the supervisor's state cannot be used, the journal must do: ${textOf(error)}`,
      );
      return undefined;
    }
  }
}

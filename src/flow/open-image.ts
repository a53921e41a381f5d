// SPDX-License-Identifier: Apache-2.0
// Answers OPENs. A process waiting for one cannot be killed, so each has a deadline of its own;
// what misses it goes on in the background, and the next try finds the result.

import { DaemonError, asDaemonError } from "../errors.ts";
import { cookieKeyProblem } from "../kernel/cachefiles/keys.ts";
import type { OpenRequest } from "../kernel/transport.ts";
import type { Clock } from "../platform/clock.ts";
import type { Log } from "../platform/log.ts";
import type { CookieName } from "../state/bindings.ts";
import type { Engine } from "./engine.ts";
import type { Found } from "./name-resolver.ts";

export interface OpenerParts {
  readonly clock: Clock;
  readonly log: Log;
  readonly engine: Engine;
  readonly names: { find(name: CookieName): Promise<Found> };
  /** Why objects of this volume are not served; undefined when they are. */
  readonly volumeProblem: (volumeKey: string) => string | undefined;
  readonly openTimeoutMs: number;
  readonly onFailure: (cookieKey: string, error: DaemonError) => void;
}

interface WaitingOpen {
  readonly request: OpenRequest;
  readonly cancelDeadline: () => void;
}

export class Opener {
  readonly #parts: OpenerParts;
  readonly #waiting = new Map<string, WaitingOpen[]>();

  constructor(parts: OpenerParts) {
    this.#parts = parts;
  }

  get waitingCount(): number {
    return this.#waiting.size;
  }

  /** Answers `request` within the open timeout: accepted and served, or refused. */
  open(request: OpenRequest): void {
    const { clock, openTimeoutMs } = this.#parts;
    const name = { volumeKey: request.volumeKey, cookieKey: request.cookieKey };
    const cancelDeadline = clock.after(openTimeoutMs, () => {
      const what = `opening "${name.cookieKey}"`;
      const timeoutMs = openTimeoutMs;
      this.#refuse(request, new DaemonError({ code: "deadline_exceeded", what, timeoutMs }));
    });
    const id = `${name.volumeKey}\0${name.cookieKey}`;
    const others = this.#waiting.get(id);
    if (others !== undefined) {
      others.push({ request, cancelDeadline });
      return;
    }
    const waiting = [{ request, cancelDeadline }];
    this.#waiting.set(id, waiting);
    // #openOne never rejects: it answers with what went wrong.
    void this.#openOne(name, waiting).finally(() => this.#waiting.delete(id));
  }

  async #openOne(name: CookieName, waiting: readonly WaitingOpen[]): Promise<void> {
    let found: Found | undefined;
    try {
      this.#checkServed(name);
      found = await this.#parts.names.find(name);
      for (const { request } of waiting) this.#accept(request, found);
    } catch (error) {
      const fault = asDaemonError(error);
      for (const { request } of waiting) this.#refuse(request, fault);
    } finally {
      for (const { cancelDeadline } of waiting) cancelDeadline();
      found?.release();
    }
  }

  #checkServed(name: CookieName): void {
    const refusal = this.#parts.volumeProblem(name.volumeKey);
    if (refusal !== undefined) {
      throw new DaemonError({ code: "key_refused", key: name.cookieKey, detail: refusal });
    }
    // The kernel may answer such a key from the cache file of another.
    const problem = cookieKeyProblem(name.cookieKey);
    if (problem !== undefined) {
      throw new DaemonError({ code: "key_refused", key: name.cookieKey, detail: problem });
    }
  }

  #accept(request: OpenRequest, { stream, copenSize }: Found): void {
    if (request.answered) return;
    // Throws when the stream is being served with another size: refused, not opened and dead.
    this.#parts.engine.flowOf(stream);
    const object = request.accept(copenSize);
    if (object === undefined) return;
    this.#parts.engine.serve(stream, object);
    const { digest, map } = stream;
    this.#parts.log.info(
      { key: request.cookieKey, stream: digest, sizeBytes: map.sizeBytes, copenSize },
      "object opened",
    );
  }

  #refuse(request: OpenRequest, error: DaemonError): void {
    if (request.answered) return;
    request.refuse(error);
    const key = request.cookieKey;
    this.#parts.onFailure(key, error);
    this.#parts.log.warn(
      { key, code: error.fault.code, hint: error.policy.hint },
      `open refused: ${error.message}`,
    );
  }
}

// SPDX-License-Identifier: Apache-2.0
// A READ on its way through flow: the kernel's request, and what is told of it when it is answered.

import type { DaemonError } from "../errors.ts";
import type { KernelObject, ReadRequest } from "../kernel/transport.ts";
import type { Extent } from "../units.ts";
import type { Found } from "./flow-observer.ts";
import type { FlowParts, Stream } from "./stream.ts";

export class ServedRead implements ReadRequest {
  readonly id: number;
  readonly object: KernelObject;
  readonly extent: Extent;
  readonly isOwn: boolean;
  /** When it came, on the engine's clock. */
  readonly sinceMs: number;
  /** Somebody wants to know all that is read: no other bytes than its own are brought. */
  isRecorded = false;
  /** What it turned out to find. */
  found: Found = "hit";
  readonly #request: ReadRequest;
  readonly #stream: Stream;
  readonly #parts: Pick<FlowParts, "clock" | "log" | "observe">;

  constructor(
    request: ReadRequest,
    stream: Stream,
    parts: Pick<FlowParts, "clock" | "log" | "observe">,
  ) {
    this.id = request.id;
    this.object = request.object;
    this.extent = request.extent;
    this.isOwn = request.isOwn ?? false;
    this.sinceMs = parts.clock.nowMs();
    this.#request = request;
    this.#stream = stream;
    this.#parts = parts;
  }

  get answered(): boolean {
    return this.#request.answered;
  }

  complete(): void {
    const fromMs = this.#parts.clock.nowMs();
    this.#request.complete();
    this.#ended(fromMs, undefined);
  }

  fail(error: DaemonError): void {
    const fromMs = this.#parts.clock.nowMs();
    this.#request.fail(error);
    this.#ended(fromMs, error);
  }

  #ended(fromMs: number, error: DaemonError | undefined): void {
    const { clock, log, observe } = this.#parts;
    const nowMs = clock.nowMs();
    const { id, object, extent, found } = this;
    const elapsedMs = nowMs - this.sinceMs;
    const code = error?.fault.code;
    log.trace({ miss: id, found, code, elapsedMs }, "reply");
    if (observe === undefined) return;
    observe.phase("reply", nowMs - fromMs);
    const { volumeKey, cookieKey } = object;
    const { key: streamKey, host } = this.#stream;
    observe.answered({ id, volumeKey, cookieKey, streamKey, host, extent, found, elapsedMs, code });
  }
}

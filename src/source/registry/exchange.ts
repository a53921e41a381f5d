// SPDX-License-Identifier: Apache-2.0
// One HTTP request and its response, on undici's dispatch (the fastest way in, and pieces are
// handed on without a copy). Owns the three ways a peer can keep us waiting: it times the
// headers and the pauses of the body, and follows an abort at once, also while queued.

import type { Dispatcher } from "undici";
import { DaemonError, invariant } from "../../errors.ts";
import { type Clock, cancelledBy } from "../../platform/clock.ts";
import { transportFault } from "./faults.ts";

export interface ResponseHead {
  readonly host: string;
  readonly status: number;
  /** Names in lower case; repeated headers joined with ", ". */
  readonly headers: ReadonlyMap<string, string>;
}

export type Method = "GET" | "POST" | "PUT";

/** Takes the body's pieces; each is valid only during the call. */
export type BodySink = (piece: Uint8Array) => void;

/** Holds a body back: what has come stays in the connection, and the peer waits. */
export interface BodyFlow {
  pause(): void;
  resume(): void;
}

export interface ExchangeRequest {
  readonly dispatcher: Dispatcher;
  /** Names the host in faults. */
  readonly url: URL;
  /** What comes after the method: a path with its query, or for a proxy the whole URL. */
  readonly target: string;
  readonly headers: Readonly<Record<string, string>>;
  /** Default: GET. */
  readonly method?: Method | undefined;
  readonly body?: string | Uint8Array | undefined;
  readonly signal: AbortSignal;
  readonly clock: Clock;
  readonly headersTimeoutMs: number;
  readonly stallTimeoutMs: number;
  /** Where the body goes; undefined: read and forget it, so that the connection can be used again. */
  readonly onHead: (head: ResponseHead, flow: BodyFlow) => BodySink | undefined;
  readonly onBytes?: (count: number) => void;
}

/** A body nobody wants is read up to here; beyond it the connection is given up. */
const DISCARD_BYTES_MAX = 64 * 1024;

/**
 * Sends one request, and settles after the last byte of the body. Rejects with registry_unreachable,
 * registry_timeout, registry_protocol, what the signal stands for, or what onHead or the sink
 * threw; after that neither is called again.
 */
export function exchange(request: ExchangeRequest): Promise<ResponseHead> {
  return new Promise((resolve, reject) => {
    new Exchange(request, resolve, reject).start();
  });
}

/** waiting -> headers -> body -> done; any state -> done by a failure. */
type State = "waiting" | "headers" | "body" | "done";

class Exchange implements Dispatcher.DispatchHandler, BodyFlow {
  readonly #request: ExchangeRequest;
  readonly #host: string;
  readonly #resolve: (head: ResponseHead) => void;
  readonly #reject: (error: unknown) => void;
  #state: State = "waiting";
  #controller: Dispatcher.DispatchController | undefined;
  #head: ResponseHead | undefined;
  #sink: BodySink | undefined;
  #discardedBytes = 0;
  #lastByteMs = 0;
  #isPaused = false;
  #cancelTimer: () => void = () => undefined;
  readonly #onAbort = (): void => {
    this.#fail(cancelledBy(this.#request.signal));
  };

  constructor(
    request: ExchangeRequest,
    resolve: (head: ResponseHead) => void,
    reject: (error: unknown) => void,
  ) {
    this.#request = request;
    this.#host = request.url.host;
    this.#resolve = resolve;
    this.#reject = reject;
  }

  start(): void {
    const { dispatcher, url, target, headers, method = "GET", body, signal } = this.#request;
    if (signal.aborted) {
      this.#onAbort();
      return;
    }
    signal.addEventListener("abort", this.#onAbort, { once: true });
    try {
      const { origin } = url;
      const asked = { origin, path: target, headers, method };
      dispatcher.dispatch(body === undefined ? asked : { ...asked, body }, this);
    } catch (error) {
      this.#fail(transportFault(error, this.#host));
    }
  }

  /** The request has a connection and is about to be written. waiting -> headers */
  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller;
    if (this.#state === "done") {
      controller.abort(new Error("nobody waits for this request any more"));
      return;
    }
    this.#state = "headers";
    // A request that found its connection dead is started again on another one.
    this.#cancelTimer();
    this.#cancelTimer = this.#request.clock.after(this.#request.headersTimeoutMs, () => {
      const detail = `no response within ${this.#request.headersTimeoutMs} ms`;
      this.#fail(new DaemonError({ code: "registry_timeout", host: this.#host, detail }));
    });
  }

  /** headers -> body. Informational responses (1xx) come first and say nothing. */
  onResponseStart(
    _controller: Dispatcher.DispatchController,
    status: number,
    headers: Readonly<Record<string, string | string[] | undefined>>,
  ): void {
    if (this.#state === "done" || status < 200) return;
    this.#cancelTimer();
    this.#state = "body";
    const head = { host: this.#host, status, headers: headerMap(headers) };
    this.#head = head;
    this.#guarded(() => {
      this.#sink = this.#request.onHead(head, this);
      this.#lastByteMs = this.#request.clock.nowMs();
      this.#watchStall(this.#request.stallTimeoutMs);
    });
  }

  onResponseData(_controller: Dispatcher.DispatchController, piece: Uint8Array): void {
    if (this.#state === "done") return;
    this.#lastByteMs = this.#request.clock.nowMs();
    this.#request.onBytes?.(piece.length);
    this.#guarded(() => {
      if (this.#sink === undefined) this.#discard(piece);
      else this.#sink(piece);
    });
  }

  pause(): void {
    if (this.#state !== "body" || this.#isPaused) return;
    this.#isPaused = true;
    this.#controller?.pause();
  }

  resume(): void {
    if (this.#state !== "body" || !this.#isPaused) return;
    this.#isPaused = false;
    this.#lastByteMs = this.#request.clock.nowMs();
    this.#controller?.resume();
  }

  /** body -> done */
  onResponseEnd(): void {
    if (this.#state === "done") return;
    this.#settle();
    invariant(this.#head !== undefined, "a response ends after it began");
    this.#resolve(this.#head);
  }

  onResponseError(_controller: Dispatcher.DispatchController | undefined, error: Error): void {
    this.#endEarly(transportFault(error, this.#host));
  }

  /** body -> done. A body nobody wants may break off: what there was to know is in the head. */
  #endEarly(error: DaemonError): void {
    const head = this.#head;
    if (this.#state !== "body" || this.#sink !== undefined || head === undefined) {
      this.#fail(error);
      return;
    }
    this.#settle();
    this.#controller?.abort(new Error("the rest of the response is not wanted"));
    this.#resolve(head);
  }

  #discard(piece: Uint8Array): void {
    this.#discardedBytes += piece.length;
    if (this.#discardedBytes <= DISCARD_BYTES_MAX) return;
    const detail = "a long answer to nothing";
    this.#endEarly(new DaemonError({ code: "registry_protocol", host: this.#host, detail }));
  }

  /** One timer that looks again, instead of one for each piece. */
  #watchStall(delayMs: number): void {
    if (this.#state === "done") return;
    const { clock, stallTimeoutMs } = this.#request;
    this.#cancelTimer = clock.after(delayMs, () => {
      const quietMs = this.#isPaused ? 0 : clock.nowMs() - this.#lastByteMs;
      if (quietMs < stallTimeoutMs) {
        this.#watchStall(stallTimeoutMs - quietMs);
        return;
      }
      const detail = `no byte within ${stallTimeoutMs} ms`;
      this.#endEarly(new DaemonError({ code: "registry_timeout", host: this.#host, detail }));
    });
  }

  #guarded(run: () => void): void {
    try {
      run();
    } catch (error) {
      this.#fail(error);
    }
  }

  #fail(error: unknown): void {
    if (this.#state === "done") return;
    this.#settle();
    this.#controller?.abort(error instanceof Error ? error : new Error(String(error)));
    this.#reject(error);
  }

  #settle(): void {
    this.#state = "done";
    this.#cancelTimer();
    this.#request.signal.removeEventListener("abort", this.#onAbort);
  }
}

function headerMap(
  headers: Readonly<Record<string, string | string[] | undefined>>,
): ReadonlyMap<string, string> {
  const map = new Map<string, string>();
  for (const [name, value] of Object.entries(headers)) {
    if (value === undefined) continue;
    map.set(name.toLowerCase(), typeof value === "string" ? value : value.join(", "));
  }
  return map;
}

// SPDX-License-Identifier: Apache-2.0
// What happens, for whoever listens on the control socket, as Server-Sent Events (WHATWG HTML,
// "Server-sent events"). Nobody who serves a reader waits for a listener: each has room for so many
// events, later ones are dropped, and their number is told when there is room again.

import { DaemonError } from "../errors.ts";
import type { Clock } from "../platform/clock.ts";
import type { EventData, Happening } from "./image-schema.ts";

const LISTENERS_MAX = 16;
const WAITING_MAX = 256;
/** So that whoever listens, and we, find out that the other is gone. */
const COMMENT_EVERY_MS = 15_000;

export class EventHub {
  readonly #clock: Clock;
  readonly #unixMs: () => number;
  readonly #listeners = new Set<Listener>();
  #lastId = 0;

  constructor(parts: { readonly clock: Clock; readonly unixMs: () => number }) {
    this.#clock = parts.clock;
    this.#unixMs = parts.unixMs;
  }

  get listenerCount(): number {
    return this.#listeners.size;
  }

  /** Tells everyone who listens; costs nothing when nobody does. */
  publish(happening: Happening): void {
    this.#lastId += 1;
    if (this.#listeners.size === 0) return;
    const event = { id: this.#lastId, at: this.#now(), ...happening };
    const text = eventText(event);
    for (const listener of this.#listeners) listener.put(text);
  }

  /** The last event there is: every stream ends with it. */
  stop(): void {
    this.publish({ type: "stopping" });
    for (const listener of this.#listeners) listener.end();
  }

  /** Pieces of an event stream until `signal` aborts or the daemon stops. Fault: daemon_busy. */
  listen(signal: AbortSignal): AsyncGenerator<string, void> {
    if (this.#listeners.size >= LISTENERS_MAX) {
      const detail = `${LISTENERS_MAX} clients listen to events already`;
      throw new DaemonError({ code: "daemon_busy", detail });
    }
    const listener = new Listener((count) => {
      return eventText({ id: this.#lastId, at: this.#now(), type: "dropped", count });
    });
    this.#listeners.add(listener);
    // Sent at once, so that the answer's head is too.
    listener.comment("events");
    let cancelComment = (): void => undefined;
    const commentLater = (): void => {
      cancelComment = this.#clock.after(COMMENT_EVERY_MS, () => {
        listener.comment("");
        commentLater();
      });
    };
    commentLater();
    const close = (): void => {
      cancelComment();
      signal.removeEventListener("abort", close);
      this.#listeners.delete(listener);
      listener.end();
    };
    signal.addEventListener("abort", close, { once: true });
    if (signal.aborted) close();
    return piecesOf(listener, close);
  }

  #now(): string {
    return new Date(this.#unixMs()).toISOString();
  }
}

async function* piecesOf(listener: Listener, close: () => void): AsyncGenerator<string, void> {
  try {
    for (;;) {
      const piece = await listener.next();
      if (piece === undefined) return;
      yield piece;
    }
  } finally {
    close();
  }
}

class Listener {
  readonly #droppedText: (count: number) => string;
  #waiting: string[] = [];
  #dropped = 0;
  #isOver = false;
  #wake: (() => void) | undefined;

  constructor(droppedText: (count: number) => string) {
    this.#droppedText = droppedText;
  }

  put(text: string): void {
    if (this.#isOver) return;
    if (this.#waiting.length >= WAITING_MAX) {
      this.#dropped += 1;
      return;
    }
    this.#push(text);
  }

  comment(text: string): void {
    if (this.#waiting.length === 0) this.#push(`: ${text}\n\n`);
  }

  end(): void {
    this.#isOver = true;
    this.#wake?.();
  }

  /** All that waits; undefined when there is no more to come. */
  async next(): Promise<string | undefined> {
    while (this.#waiting.length === 0) {
      if (this.#isOver) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
    const told = this.#dropped === 0 ? "" : this.#droppedText(this.#dropped);
    this.#dropped = 0;
    // What was dropped came after what waited.
    return this.#waiting.splice(0).join("") + told;
  }

  #push(text: string): void {
    this.#waiting.push(text);
    this.#wake?.();
  }
}

function eventText(event: EventData): string {
  return `id: ${event.id}\nevent: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`;
}

// SPDX-License-Identifier: Apache-2.0
// `erofsd top`: what readers wait for, while it happens. On a terminal one picture that is drawn
// anew, elsewhere a line each time.

import { type ActivityAnswer, activityAnswer } from "../control/activity-schema.ts";
import { ask } from "../control/client.ts";
import { type Output, jsonLine, styleOf } from "./output.ts";
import { TopPlaces } from "./top-places.ts";
import { type Top, summaryLine, topOf, topText } from "./top-view.ts";

const SCREEN_ON = "\u001B[?1049h\u001B[?25l";
const SCREEN_OFF = "\u001B[?25h\u001B[?1049l";
const HOME = "\u001B[H";
const CLEAR_LINE = "\u001B[K";
const CLEAR_BELOW = "\u001B[J";
/** Of a terminal that does not say. */
const COLUMNS = 80;
const ROWS = 24;

/** A terminal, or what takes its place. */
export interface Screen extends Output {
  readonly columns?: number;
  readonly rows?: number;
  on?(event: "resize", listener: () => void): unknown;
  off?(event: "resize", listener: () => void): unknown;
}

export interface TopGiven {
  readonly socketPath: string;
  readonly json: boolean;
  /** One picture of one interval, then the end. */
  readonly once: boolean;
  readonly intervalSeconds: number;
}

/** Returns on SIGINT, SIGTERM or SIGHUP, or after one picture. Faults as `ask`. */
export async function topCommand(given: TopGiven, screen: Screen = process.stdout): Promise<void> {
  const interrupt = new AbortController();
  const stop = (): void => {
    interrupt.abort();
  };
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  // Also a second one: the terminal is still to be given back.
  for (const signal of signals) process.on(signal, stop);
  try {
    await watch(given, screen, interrupt.signal);
  } finally {
    for (const signal of signals) process.removeListener(signal, stop);
  }
}

async function watch(given: TopGiven, screen: Screen, signal: AbortSignal): Promise<void> {
  const { socketPath, intervalSeconds } = given;
  const activity = (): Promise<ActivityAnswer> =>
    ask(socketPath, { method: "GET", path: "/v1/activity", answer: activityAnswer });
  const places = new TopPlaces(socketPath);
  let before = await activity();
  const show = shower(given, screen);
  try {
    for (;;) {
      await pause(intervalSeconds * 1000, signal);
      if (signal.aborted) return;
      const now = await unlessAborted(activity(), signal);
      const mounts = now && (await unlessAborted(places.look(now), signal));
      if (now === undefined || mounts === undefined) return;
      show.draw(topOf({ before, now, mounts, fileOf: places.fileOf.bind(places) }));
      before = now;
      if (given.once) return;
    }
  } finally {
    show.end();
  }
}

interface Shower {
  draw(top: Top): void;
  end(): void;
}

function shower({ json, once }: TopGiven, screen: Screen): Shower {
  const style = styleOf(screen);
  const nothing = (): void => undefined;
  if (json) return { draw: (top) => void screen.write(jsonLine(top)), end: nothing };
  if (once) return { draw: (top) => void screen.write(topText(top, style)), end: nothing };
  if (screen.isTTY !== true) {
    return { draw: (top) => void screen.write(summaryLine(top)), end: nothing };
  }
  let last: Top | undefined;
  const draw = (): void => {
    const fit = { columns: screen.columns ?? COLUMNS, rows: screen.rows ?? ROWS };
    const text = last === undefined ? "waiting for the daemon" : topText(last, style, fit);
    // Line by line over what is there: nothing flickers.
    screen.write(`${HOME}${text.replaceAll("\n", `${CLEAR_LINE}\n`)}${CLEAR_LINE}${CLEAR_BELOW}`);
  };
  screen.write(SCREEN_ON);
  draw();
  screen.on?.("resize", draw);
  return {
    draw(top) {
      last = top;
      draw();
    },
    end() {
      screen.off?.("resize", draw);
      screen.write(SCREEN_OFF);
    },
  };
}

/** Undefined when `signal` aborts first: nobody waits for a daemon that does not answer. */
async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T | undefined> {
  let leave: () => void = () => undefined;
  const left = new Promise<undefined>((resolve) => {
    leave = () => {
      resolve(undefined);
    };
  });
  signal.addEventListener("abort", leave, { once: true });
  if (signal.aborted) leave();
  try {
    return await Promise.race([work, left]);
  } finally {
    signal.removeEventListener("abort", leave);
  }
}

/** Resolves after so long, or when `signal` aborts. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    if (signal.aborted) done();
    else signal.addEventListener("abort", done, { once: true });
  });
}

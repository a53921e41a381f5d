// SPDX-License-Identifier: Apache-2.0
// What may happen in a schedule, as data: each step says all that is drawn for it, and names what
// it is done to by a number that is taken modulo what there is. So any step may be left out, and
// the others still mean something.

import type { World } from "./world.ts";
import { chanceOf } from "./world.ts";
import type { SeededRandom } from "../seeded-random.ts";

interface Act<D extends string> {
  readonly do: D;
}

export type Happening =
  /** `cached`: where an earlier mount's data lies, of 1000; `again`: what the last one left. */
  | (Act<"open"> & {
      readonly stream: number;
      readonly again: boolean;
      readonly cached: readonly [from: number, length: number] | undefined;
      readonly listing: "now" | "late" | "fails";
      readonly lateMs: number;
      readonly holdsWrites: boolean;
    })
  | (Act<"close"> & { readonly object: number })
  | (Act<"read"> & { readonly object: number; readonly reader: number; readonly at: number })
  /** A reader is killed: nobody looks at its answer any more. */
  | (Act<"vanish"> & { readonly read: number })
  /** Part of a fetch's bytes come: so many of a thousand of what is left. */
  | (Act<"give"> & { readonly fetch: number; readonly share: number })
  | (Act<"finish" | "short" | "long"> & { readonly fetch: number })
  | (Act<"fail"> & { readonly fetch: number; readonly with: "broken" | "truncated" })
  /** Wrong bytes: what is verified must survive them. */
  | (Act<"lie"> & { readonly fetch: number; readonly share: number })
  /** A host's link carries what was asked of it, for so long. */
  | (Act<"flow"> & { readonly host: number; readonly ms: number })
  | (Act<"write"> & { readonly object: number; readonly isFine: boolean })
  | (Act<"writes"> & { readonly object: number })
  | (Act<"pin"> & { readonly stream: number })
  | Act<"unpin">
  | (Act<"prefetch"> & { readonly rate: number })
  | Act<"no prefetch">
  | (Act<"trust"> & { readonly stream: number; readonly unit: number; readonly is: boolean })
  | Act<"stop">;

export type Step = Happening & {
  /** Its place in the whole schedule; kept when others are left out. */
  readonly number: number;
  /** Time that passes afterwards. */
  readonly thenMs: number;
};

const STEPS = 110;

export function drawSteps(world: World): Step[] {
  const random = chanceOf(world.seed, 1);
  const isPinning = random.chance(0.3);
  const isPrefetching = random.chance(0.5);
  const draw = (number: number): Step => {
    // Nothing happens without an object.
    const happening =
      number < 2 ? open(random) : drawHappening(random, { isPinning, isPrefetching });
    const thenMs = random.chance(0.7) ? 0 : random.between(1, 200);
    return { ...happening, number, thenMs };
  };
  return Array.from({ length: STEPS }, (_, number) => draw(number));
}

function drawHappening(
  random: SeededRandom,
  of: { isPinning: boolean; isPrefetching: boolean },
): Happening {
  const dice = random.between(0, 999);
  if (dice < 45) return open(random);
  if (dice < 75) return { do: "close", object: any(random) };
  if (dice < 380) return { do: "read", object: any(random), reader: any(random), at: any(random) };
  if (dice < 390) return { do: "vanish", read: any(random) };
  if (dice < 700) return drawSource(random);
  if (dice < 900) return drawCache(random);
  if (dice < 940) return of.isPinning ? drawPin(random) : { do: "writes", object: any(random) };
  if (dice < 980) return of.isPrefetching ? drawPrefetch(random) : drawSource(random);
  if (dice < 990) {
    return { do: "trust", stream: any(random), unit: any(random), is: random.chance(0.7) };
  }
  return { do: random.chance(0.5) ? "stop" : "unpin" };
}

function drawSource(random: SeededRandom): Happening {
  const dice = random.between(0, 99);
  const fetch = any(random);
  if (dice < 30) return { do: "give", fetch, share: random.between(0, 1000) };
  if (dice < 60) return { do: "finish", fetch };
  if (dice < 81) return { do: "flow", host: any(random), ms: random.between(1, 30) * 10 };
  if (dice < 88) return { do: "fail", fetch, with: random.chance(0.7) ? "broken" : "truncated" };
  if (dice < 91) return { do: "short", fetch };
  if (dice < 93) return { do: "long", fetch };
  return { do: "lie", fetch, share: random.between(0, 1000) };
}

function drawCache(random: SeededRandom): Happening {
  const object = any(random);
  if (random.chance(0.3)) return { do: "writes", object };
  return { do: "write", object, isFine: !random.chance(0.1) };
}

function drawPin(random: SeededRandom): Happening {
  return random.chance(0.5) ? { do: "pin", stream: any(random) } : { do: "unpin" };
}

function drawPrefetch(random: SeededRandom): Happening {
  if (random.chance(0.2)) return { do: "no prefetch" };
  return { do: "prefetch", rate: random.chance(0.3) ? 40 : 0 };
}

function open(random: SeededRandom): Happening {
  const dice = random.between(0, 99);
  const cachedDice = random.chance(0.5);
  return {
    do: "open",
    stream: any(random),
    again: random.chance(0.5),
    cached: cachedDice ? [random.between(0, 900), random.between(1, 300)] : undefined,
    listing: dice < 80 ? "now" : dice < 92 ? "late" : "fails",
    lateMs: random.between(1, 3_000),
    holdsWrites: random.chance(0.6),
  };
}

function any(random: SeededRandom): number {
  return random.between(0, 9_999);
}

/** One line for people: what is done, without what does not matter to it. */
export function showStep({ number, thenMs, ...happening }: Step): string {
  const { do: what, ...rest } = happening;
  const details = Object.entries(rest)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => `${key} ${Array.isArray(value) ? value.join("+") : String(value)}`);
  const then = thenMs > 0 ? `, then ${thenMs} ms pass` : "";
  return `[${number}] ${[what, ...details].join(", ")}${then}`;
}

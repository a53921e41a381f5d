// SPDX-License-Identifier: Apache-2.0
// A seed's schedule, or part of it, from beginning to end; and the shortest part that still goes
// wrong in the same way.

import { Schedule } from "./schedule.ts";
import { type Step, drawSteps, showStep } from "./steps.ts";
import { drawWorld } from "./world.ts";

export interface Outcome {
  readonly violations: readonly string[];
  readonly trace: readonly string[];
  /** Numbers of the steps that were played. */
  readonly steps: readonly number[];
}

export interface Shrunk {
  readonly seed: number;
  readonly violation: string;
  readonly steps: readonly number[];
  /** The steps in words. */
  readonly shown: readonly string[];
  readonly stepsBefore: number;
}

/** Tries of parts of one schedule. */
const TRIES_MAX = 1_500;

/** Plays the schedule of `seed`; only the steps numbered in `keep`, if given. */
export async function simulate(seed: number, keep?: readonly number[]): Promise<Outcome> {
  const world = drawWorld(seed);
  const kept = keep === undefined ? undefined : new Set(keep);
  const steps = drawSteps(world).filter(({ number }) => kept?.has(number) !== false);
  const schedule = new Schedule(world);
  const thrown: string[] = [];
  await schedule.play(steps).catch((error: unknown) => {
    thrown.push(error instanceof Error ? `thrown: ${error.message}` : String(error));
  });
  const violations = [...schedule.violations, ...thrown];
  return { violations, trace: schedule.trace, steps: steps.map(({ number }) => number) };
}

/** What went wrong, without the numbers that differ from part to part. */
export function kindOf(violation: string): string {
  return violation.replaceAll(/[\d.]+/g, "#");
}

/** Leaves out steps while the first violation of the whole schedule stays. */
export async function shrink(seed: number): Promise<Shrunk | undefined> {
  const whole = await simulate(seed);
  const [first] = whole.violations;
  if (first === undefined) return undefined;
  const kind = kindOf(first);
  let violation = first;
  const budget = { tries: TRIES_MAX };
  const failsWith = async (steps: readonly number[]): Promise<boolean> => {
    budget.tries -= 1;
    const { violations } = await simulate(seed, steps);
    const same = violations.find((one) => kindOf(one) === kind);
    violation = same ?? violation;
    return same !== undefined;
  };
  let steps = [...whole.steps];
  for (let length = Math.ceil(steps.length / 2); length >= 1 && budget.tries > 0; ) {
    let isShorter = false;
    for (let from = 0; from < steps.length && budget.tries > 0; ) {
      const rest = steps.toSpliced(from, length);
      if (rest.length > 0 && (await failsWith(rest))) {
        steps = rest;
        isShorter = true;
      } else {
        from += length;
      }
    }
    if (length === 1 && !isShorter) break;
    if (!isShorter || length > 1) length = Math.max(1, Math.floor(length / 2));
  }
  const all: readonly Step[] = drawSteps(drawWorld(seed));
  const shown = all.filter(({ number }) => steps.includes(number)).map(showStep);
  return { seed, violation, steps, shown, stepsBefore: whole.steps.length };
}

export function showFailure({ seed, violation, steps, shown, stepsBefore }: Shrunk): string {
  return [
    `seed ${seed}: ${violation}`,
    `shortest schedule that does it, ${steps.length} of ${stepsBefore} steps:`,
    ...shown.map((step) => `  ${step}`),
    `play it again: scripts/soak --seed ${seed} --steps ${steps.join(",")}`,
  ].join("\n");
}

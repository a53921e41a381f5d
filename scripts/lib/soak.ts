// SPDX-License-Identifier: Apache-2.0
// Plays schedules of the engine's simulation and says how many held:
//   soak [--schedules N] [--from SEED] | --seed SEED [--steps 1,2,3]

import { parseArgs } from "node:util";
import { playSeeds, withSimulation } from "../../test/support/simulation/crew.ts";
import { showFailure, shrink, simulate } from "../../test/support/simulation/simulate.ts";

const PROGRESS_EVERY = 1_000;
const FAILURES_MAX = 5;

const NUMBER = /^\d+$/;
const NUMBERS = /^\d+(,\d+)*$/;

const values = parsed();
if (values.seed === undefined) await soak(Number(values.from), Number(values.schedules));
else await replay(Number(values.seed), values.steps?.split(",").map(Number));

async function soak(first: number, count: number): Promise<void> {
  let told = 0;
  const onProgress = (passed: number): void => {
    if (passed < told + PROGRESS_EVERY) return;
    told = passed - (passed % PROGRESS_EVERY);
    console.log(`${told} of ${count} schedules have held`);
  };
  const seeds = { first, count, failuresMax: FAILURES_MAX, shrinks: true, onProgress };
  const tally = await withSimulation(undefined, (path) => playSeeds(path, seeds));
  for (const { text } of tally.failures) console.log(`\n${text}`);
  console.log(`${tally.passed} passed, ${tally.failures.length} failed`);
  if (tally.failures.length > 0) process.exitCode = 1;
}

async function replay(seed: number, steps: readonly number[] | undefined): Promise<void> {
  const { violations, trace } = await simulate(seed, steps);
  for (const line of trace) console.log(line);
  for (const violation of violations) console.log(`violated: ${violation}`);
  const shrunk = steps === undefined && violations.length > 0 ? await shrink(seed) : undefined;
  if (shrunk !== undefined) console.log(showFailure(shrunk));
  const failed = violations.length > 0 ? 1 : 0;
  console.log(`${1 - failed} passed, ${failed} failed`);
  process.exitCode = failed;
}

function parsed() {
  try {
    const { values } = parseArgs({
      options: {
        schedules: { type: "string", default: "20000" },
        from: { type: "string", default: "1" },
        seed: { type: "string" },
        steps: { type: "string" },
      },
    });
    for (const name of ["schedules", "from", "seed"] as const) {
      const value = values[name];
      if (value !== undefined && !NUMBER.test(value)) throw new Error(`--${name}: "${value}"`);
    }
    const { seed, steps, schedules } = values;
    if (Number(schedules) === 0) throw new Error("--schedules: none");
    if (steps !== undefined && seed === undefined) throw new Error("--steps is of one --seed");
    if (steps !== undefined && !NUMBERS.test(steps)) throw new Error(`--steps: "${steps}"`);
    return values;
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    console.error(`soak: ${message.split("\n", 1)[0] ?? message}`);
    return process.exit(2);
  }
}

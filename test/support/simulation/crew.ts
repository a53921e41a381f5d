// SPDX-License-Identifier: Apache-2.0
// Plays many schedules on all cores: the engine and its simulation are bundled into one file, as
// they are or with a fault planted in the source, and threads run that.

import { mkdtemp, rm } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { rolldown } from "rolldown";
import type { PlantedFault } from "./planted.ts";
import type { Told } from "./worker.ts";

const ENTRY = "test/support/simulation/worker.ts";

export interface Seeds {
  readonly first: number;
  readonly count: number;
  readonly failuresMax: number;
  readonly shrinks: boolean;
  readonly threads?: number;
  readonly onProgress?: (passed: number) => void;
}

export interface Failure {
  readonly seed: number;
  readonly violations: readonly string[];
  readonly text: string;
}

export interface Tally {
  readonly passed: number;
  readonly failures: readonly Failure[];
}

/** Runs `use` with the path of a bundle, which is removed afterwards. The package is the cwd. */
export async function withSimulation<T>(
  planted: PlantedFault | undefined,
  use: (bundlePath: string) => Promise<T>,
): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), "erofsd-sim-"));
  try {
    const file = join(directory, "worker.mjs");
    const bundle = await rolldown({
      cwd: process.cwd(),
      input: ENTRY,
      platform: "node",
      plugins: planted === undefined ? [] : [plant(planted)],
    });
    await bundle.write({ file, format: "esm" });
    await bundle.close();
    return await use(file);
  } finally {
    await rm(directory, { recursive: true });
  }
}

function plant({ name, file, find, replace }: PlantedFault): {
  name: string;
  transform: (code: string, id: string) => string | undefined;
  buildEnd: (error?: Error) => void;
} {
  let isPlanted = false;
  return {
    name: "plant",
    transform(code, id) {
      if (!id.endsWith(`/${file}`)) return undefined;
      if (code.split(find).length !== 2) throw new Error(`"${name}" does not fit ${file} any more`);
      isPlanted = true;
      return code.replace(find, () => replace);
    },
    buildEnd(error) {
      if (error === undefined && !isPlanted)
        throw new Error(`"${name}" is planted nowhere: no ${file}`);
    },
  };
}

export async function playSeeds(bundlePath: string, seeds: Seeds): Promise<Tally> {
  const { first, count, threads = availableParallelism() } = seeds;
  let passed = 0;
  const failures: Failure[] = [];
  const workers = Array.from({ length: Math.min(threads, count) }, (_, index) => {
    const { failuresMax, shrinks } = seeds;
    const last = first + count - 1;
    const range = [first + index, last, threads, failuresMax, shrinks ? 1 : 0];
    return playRange(bundlePath, range, (told) => {
      if (told.kind === "failed") failures.push(told);
      else passed += told.passed;
      seeds.onProgress?.(passed);
    });
  });
  await Promise.all(workers);
  return { passed, failures: failures.toSorted((a, b) => a.seed - b.seed) };
}

function playRange(
  path: string,
  range: readonly number[],
  onTold: (told: Told) => void,
): Promise<void> {
  const worker = new Worker(path, { argv: range.map(String) });
  worker.on("message", onTold);
  return new Promise((resolve, reject) => {
    worker.on("error", reject);
    worker.on("exit", () => resolve());
  });
}

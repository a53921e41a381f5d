// SPDX-License-Identifier: Apache-2.0
// What the workloads of the host share: the registry, the link in front of it, and processes to
// run a workload in.

import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { invariant } from "../../../src/errors.ts";
import { findPackageRoot } from "../../../src/platform/package-root.ts";
import { type RunningRegistry, startDockerRegistry } from "../../support/docker-registry.ts";
import { type Link, UNSHAPED, startLink } from "../link/link.ts";
import type { LinkShape } from "../link/wire.ts";
import type { Report } from "../report.ts";
import type { Download } from "./download.ts";
import { type BenchImage, type HostImages, prepareImages } from "./images.ts";
import { type Outcome, type Task, type Workload, outcomeSchema } from "./workload.ts";

const exec = promisify(execFile);
const SUBJECT = fileURLToPath(new URL("subject.js", import.meta.url));
const PROGRAM = fileURLToPath(new URL("dist/cli/erofsd.js", findPackageRoot()));
const MESSAGE_BYTES_MAX = 64 * 1024 * 1024;

export interface RunOptions {
  /** Past the link: straight from the registry. */
  readonly isDirect?: boolean;
  /** TOML. */
  readonly config?: string;
}

export interface MeasuredOutcome extends Outcome {
  /** What the link carried to the process. */
  readonly linkBytes: number;
}

export class HostBench {
  readonly report: Report;
  readonly images: HostImages["images"];
  readonly #registry: RunningRegistry;
  readonly #link: Link;
  /** The most memory that any process under test has had. */
  peakRss = { bytes: 0, of: "" };

  private constructor(
    report: Report,
    parts: { images: HostImages; registry: RunningRegistry; link: Link },
  ) {
    this.report = report;
    this.images = parts.images.images;
    this.#registry = parts.registry;
    this.#link = parts.link;
  }

  static async start(report: Report, home: string): Promise<HostBench> {
    const images = await prepareImages(home);
    const registry = await startDockerRegistry({ storage: images.storage });
    const link = await startLink(registry.host);
    return new HostBench(report, { images, registry, link });
  }

  async stop(): Promise<void> {
    await this.#link.stop();
    await this.#registry.stop();
  }

  async shape(shape: Partial<LinkShape>): Promise<void> {
    await this.#link.reshape({ ...UNSHAPED, ...shape });
  }

  linkStats(): ReturnType<Link["stats"]> {
    return this.#link.stats();
  }

  download(image: BenchImage, bytes = image.storedBytes, isDirect = false): Download {
    const registry = isDirect ? this.#registry.host : this.#link.address;
    return { registry, name: image.name, blob: image.blob, bytes };
  }

  /** Runs a workload in a process of its own, with an empty cache. */
  async run(
    image: BenchImage,
    workload: Workload,
    options: RunOptions = {},
  ): Promise<MeasuredOutcome> {
    const { isDirect = false, config = "" } = options;
    const home = await mkdtemp(join(tmpdir(), "erofsd-bench-"));
    const registry = isDirect ? this.#registry.host : this.#link.address;
    const task: Task = { home, registry, image, config, workload };
    try {
      const before = await this.#link.stats();
      const args = [...(await daemonFlags()), SUBJECT, JSON.stringify(task)];
      const { stdout, stderr } = await exec(process.execPath, args, {
        maxBuffer: MESSAGE_BYTES_MAX,
      }).catch((error: unknown) => {
        const said = error instanceof Error && "stderr" in error ? String(error.stderr) : "";
        throw new Error(`the process under test failed (${workload.kind}): ${said}`);
      });
      if (stderr !== "") process.stderr.write(stderr);
      const outcome = outcomeSchema.parse(JSON.parse(stdout));
      if (outcome.peakRssBytes > this.peakRss.bytes) {
        this.peakRss = { bytes: outcome.peakRssBytes, of: `${image.name}, ${workload.kind}` };
      }
      const { downBytes } = await this.#link.stats();
      return { ...outcome, linkBytes: downBytes - before.downBytes };
    } finally {
      await rm(home, { recursive: true, force: true });
    }
  }
}

export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

export function median(values: readonly number[]): number {
  return percentile(values, 0.5);
}

/** Runs `measure` several times, one after the other. */
export async function repeat<T>(times: number, measure: () => Promise<T>): Promise<T[]> {
  const results: T[] = [];
  for (let n = 0; n < times; n += 1) results.push(await measure());
  return results;
}

/** What the daemon has Node.js run with. */
async function daemonFlags(): Promise<string[]> {
  const [first = ""] = (await readFile(PROGRAM, "utf8")).split("\n");
  const [, flags] = /^#!\/usr\/bin\/env -S node (.*)$/.exec(first) ?? [];
  invariant(flags !== undefined, `${PROGRAM} names its interpreter`);
  return flags.split(" ");
}

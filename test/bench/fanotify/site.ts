// SPDX-License-Identifier: Apache-2.0
// What the benches of the fanotify door run against: a registry, and the daemon as it is compiled,
// with a cache of its own on the disk that `home` is on.

import { execFile, spawn } from "node:child_process";
import { createWriteStream } from "node:fs";
import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { promisify } from "node:util";
import { EROFS_LAYER_V1 } from "../../../src/image/oci/media-types.ts";
import { unmount } from "../../../src/kernel/mount.ts";
import { findPackageRoot } from "../../../src/platform/package-root.ts";
import { MIB } from "../../../src/units.ts";
import { type RunningDaemon, startDaemon } from "../../support/daemon.ts";
import { type RunningRegistry, startDockerRegistry } from "../../support/docker-registry.ts";
import { mkfsErofs } from "../../support/mkfs.ts";
import { pushImage } from "../../support/push.ts";
import { contentPieces } from "../host/content.ts";

const exec = promisify(execFile);
export const PROGRAM = join(new URL(findPackageRoot()).pathname, "dist/cli/erofsd.js");
/** Of the one file in the image. */
export const BIG_FILE = "big.bin";
export const BIG_BYTES = 200 * MIB;
const REPOSITORY = "bench";

export class BenchSite {
  readonly scratch: string;
  readonly registry: RunningRegistry;
  /** The image as a plain file. */
  readonly image: string;
  readonly blob: string;
  #runs = 0;

  private constructor(parts: {
    scratch: string;
    registry: RunningRegistry;
    image: string;
    blob: string;
  }) {
    this.scratch = parts.scratch;
    this.registry = parts.registry;
    this.image = parts.image;
    this.blob = parts.blob;
  }

  static async start(home: string): Promise<BenchSite> {
    await mkdir(home, { recursive: true });
    const scratch = await mkdtemp(join(home, "fanotify-"));
    const image = join(scratch, "image.erofs");
    const tree = join(scratch, "tree");
    await mkdir(tree);
    const big = createWriteStream(join(tree, BIG_FILE));
    await pipeline(Readable.from(contentPieces(BIG_BYTES, MIB, 21)), big);
    await mkfsErofs(image, tree);
    await rm(tree, { recursive: true });
    const registry = await startDockerRegistry({ storage: join(scratch, "registry") });
    const target = { host: registry.host, repository: REPOSITORY };
    const layer = { body: { path: image }, mediaType: EROFS_LAYER_V1 };
    const { layers } = await pushImage(target, "big", [layer]);
    const blob = layers[0]?.digest ?? "";
    return new BenchSite({ scratch, registry, image, blob });
  }

  get blobUrl(): string {
    return `http://${this.registry.host}/v2/${REPOSITORY}/blobs/${this.blob}`;
  }

  /** A daemon with an empty cache, and the image mounted by it; `host`: the registry, or a link to it. */
  async mountFresh(config = "", host = this.registry.host): Promise<Mounted> {
    return await Mounted.start(join(this.scratch, `run-${(this.#runs += 1)}`), {
      reference: `${host}/${REPOSITORY}:big`,
      config,
    });
  }

  async stop(): Promise<void> {
    await this.registry.stop();
    await rm(this.scratch, { recursive: true, force: true });
  }
}

export class Mounted {
  readonly daemon: RunningDaemon;
  readonly target: string;
  /** Of `erofsd mount`, from its start to its end. */
  readonly mountMs: number;
  readonly #home: string;

  private constructor(parts: {
    daemon: RunningDaemon;
    target: string;
    mountMs: number;
    home: string;
  }) {
    this.daemon = parts.daemon;
    this.target = parts.target;
    this.mountMs = parts.mountMs;
    this.#home = parts.home;
  }

  static async start(
    home: string,
    of: { readonly reference: string; readonly config: string },
  ): Promise<Mounted> {
    const target = join(home, "mounted");
    await mkdir(target, { recursive: true });
    const daemon = await startDaemon({
      program: PROGRAM,
      cacheDir: join(home, "cache"),
      config: `[kernel]\ndoor = "fanotify"\n${of.config}`,
    });
    const startMs = performance.now();
    const socket = ["--socket", daemon.socketPath];
    await exec(process.execPath, [PROGRAM, "mount", of.reference, target, ...socket]);
    return new Mounted({ daemon, target, mountMs: performance.now() - startMs, home });
  }

  async cacheFiles(): Promise<string[]> {
    const directory = join(this.#home, "cache/fanotify/streams");
    const names = await readdir(directory);
    return names.filter((name) => !name.includes(".")).map((name) => join(directory, name));
  }

  async stop(): Promise<void> {
    unmount(this.target, { lazy: true });
    await this.daemon.stop();
    await rm(this.#home, { recursive: true, force: true });
  }
}

/** Milliseconds of a program that must end with 0. */
export async function timed(program: string, args: readonly string[]): Promise<number> {
  const startMs = performance.now();
  const child = spawn(program, args, { stdio: ["ignore", "ignore", "inherit"] });
  const code = await new Promise((resolve) => {
    child.once("exit", resolve);
  });
  if (code !== 0) throw new Error(`${program} ${args.join(" ")}: ${String(code)}`);
  return performance.now() - startMs;
}

/** What has been written is on the disk, and nothing of any file in memory. */
export async function dropCaches(): Promise<void> {
  await exec("sync");
  await writeFile("/proc/sys/vm/drop_caches", "1");
}

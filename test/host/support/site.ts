// SPDX-License-Identifier: Apache-2.0
// One host with the compiled daemon, a registry, and mounts made by `erofsd mount`, as root, with
// this kernel's fanotify. Reading is done by programs of their own, which have a time limit: a
// test that waits for its daemon could not end it.

import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { promisify } from "node:util";
import { mountErofs, unmount } from "../../../src/kernel/mount.ts";
import { listMounts } from "../../../src/kernel/mountinfo.ts";
import { EROFS_LAYER_V1 } from "../../../src/image/oci/media-types.ts";
import { findPackageRoot } from "../../../src/platform/package-root.ts";
import { type DaemonStart, type RunningDaemon, startDaemon } from "../../support/daemon.ts";
import { type RunningRegistry, startDockerRegistry } from "../../support/docker-registry.ts";
import { freePort } from "../../support/port.ts";
import { pushImage } from "../../support/push.ts";
import { FIXTURES } from "../../support/rafs-fixtures.ts";
import { type Weather, Way } from "../../support/way.ts";

const run = promisify(execFile);
const root = new URL(findPackageRoot()).pathname;
export const program = join(root, "dist/cli/erofsd.js");
const LIMIT_MS = 60_000;
const LIMITS = '[registry]\nattempts = 1\n[limits]\nread_timeout = "20s"\ndrain_timeout = "1s"';
const LIST = `${FIXTURES}make/list.py`;

export interface Ended {
  readonly code: number | string;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs it to its end, whatever that is. */
export async function end(command: string, args: readonly string[]): Promise<Ended> {
  try {
    const ran = await run(command, args, { timeout: LIMIT_MS, maxBuffer: 64 << 20 });
    return { code: 0, ...ran };
  } catch (error) {
    if (!(error instanceof Error && "stdout" in error && "stderr" in error)) throw error;
    const code = "code" in error && typeof error.code === "number" ? error.code : "killed";
    return { code, stdout: String(error.stdout), stderr: String(error.stderr) };
  }
}

/** Its standard output; rejects unless it exits with 0. */
export async function must(command: string, args: readonly string[]): Promise<string> {
  const ended = await end(command, args);
  if (ended.code === 0) return ended.stdout;
  throw new Error(`${command} ${args.join(" ")}: ${ended.code}\n${ended.stdout}${ended.stderr}`);
}

/** Type, mode, times, attributes and content of every path, a line each. */
export async function listTree(directory: string): Promise<string[]> {
  return (await must("python3", [LIST, directory])).trimEnd().split("\n").toSorted();
}

/** As listTree, without the content of files. */
export async function listMetadata(directory: string): Promise<string[]> {
  const lister =
    "import json,os,sys\n" +
    "for at, dirs, files in os.walk(sys.argv[1]):\n" +
    " for name in dirs + files:\n" +
    "  path = os.path.join(at, name); s = os.lstat(path)\n" +
    "  x = {k: os.getxattr(path, k, follow_symlinks=False).hex() for k in os.listxattr(path, follow_symlinks=False)}\n" +
    "  link = os.readlink(path) if os.path.islink(path) else ''\n" +
    "  print(json.dumps([os.path.relpath(path, sys.argv[1]), s.st_mode, s.st_size, s.st_nlink, s.st_mtime, x, link]))\n";
  const text = await must("python3", ["-c", lister, directory]);
  return text.trimEnd().split("\n").toSorted();
}

/** How an image looks when it is mounted from a plain file that is all there. */
export async function withPlainMount<T>(
  image: string,
  look: (directory: string) => Promise<T>,
): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), "erofsd-plain-"));
  mountErofs({ primary: image, devices: [] }, directory);
  try {
    return await look(directory);
  } finally {
    unmount(directory, { lazy: true });
    await rm(directory, { recursive: true });
  }
}

export interface SiteOptions {
  /** The cache gets a filesystem of its own. */
  readonly cache?: CacheFilesystem;
  readonly logLevel?: "trace" | "debug" | "info";
  readonly command?: DaemonStart["command"];
  /** Further lines of TOML; they come before any section. */
  readonly config?: string;
  /** Lines of the section `kernel`; default: the fanotify door. */
  readonly kernel?: string;
  /** Further lines of the section `control`. */
  readonly control?: string;
  /** Of the sections `registry` and `limits`; default: one attempt, and 20 s for a read. */
  readonly limits?: string;
  /** How the network before the registry is; default: as good as it gets. */
  readonly weather?: Weather;
}

export interface CacheFilesystem {
  readonly type: "ext4" | "xfs" | "btrfs";
  readonly bytes: number;
  /** Not on the machine's disk, whose syncs may take seconds while others use it. */
  readonly isInMemory?: boolean;
}

/** On a loop device that goes with its mount. */
async function mountCache(
  home: string,
  { type, bytes, isInMemory = false }: CacheFilesystem,
): Promise<void> {
  const target = join(home, "cache");
  const image = isInMemory ? `/dev/shm/${basename(home)}.image` : join(home, "cache.image");
  await must("truncate", ["-s", String(bytes), image]);
  await must(`mkfs.${type}`, [...(type === "ext4" ? ["-m", "0"] : []), "-q", image]);
  await mkdir(target);
  await must("mount", ["-o", "loop", image, target]);
  // The loop device has it, for as long as it is mounted.
  if (isInMemory) await rm(image);
}

/** The filesystems that this kernel has. */
export async function kernelFilesystems(): Promise<string[]> {
  const text = await readFile("/proc/filesystems", "utf8");
  return text.split("\n").map((line) => line.split("\t")[1] ?? "");
}

export class Site {
  readonly home: string;
  readonly cacheDir: string;
  daemon: RunningDaemon;
  #registry: RunningRegistry | undefined;
  readonly #registryPort: number;
  /** The network before the registry. */
  readonly way: Way;
  readonly #options: SiteOptions;
  #mounts = 0;

  private constructor(parts: {
    home: string;
    daemon: RunningDaemon;
    registry: RunningRegistry;
    registryPort: number;
    way: Way;
    options: SiteOptions;
  }) {
    this.#options = parts.options;
    this.home = parts.home;
    this.cacheDir = join(parts.home, "cache");
    this.daemon = parts.daemon;
    this.#registry = parts.registry;
    this.#registryPort = parts.registryPort;
    this.way = parts.way;
  }

  static async start(options: SiteOptions = {}): Promise<Site> {
    const home = await mkdtemp(join(tmpdir(), "erofsd-host-"));
    if (options.cache !== undefined) await mountCache(home, options.cache);
    const registryPort = await freePort();
    const storage = join(home, "registry");
    const registry = await startDockerRegistry({ storage, port: registryPort });
    const way = await Way.start(registryPort, options.weather);
    const daemon = await Site.#startDaemon(join(home, "cache"), options);
    return new Site({ home, daemon, registry, registryPort, way, options });
  }

  static #startDaemon(cacheDir: string, options: SiteOptions, cache = ""): Promise<RunningDaemon> {
    const { logLevel = "debug", config = "", command = "serve" } = options;
    const kernel = `[kernel]\n${options.kernel ?? 'door = "fanotify"'}`;
    const engine = options.limits ?? LIMITS;
    return startDaemon({
      program,
      cacheDir,
      logLevel,
      command,
      first: config,
      config: `${kernel}
${engine}`,
      cache,
      control: options.control ?? "",
    });
  }

  /** Spoken to by the daemon; it can be stopped and paused. */
  get host(): string {
    return this.way.host;
  }

  get registryHost(): string {
    return `127.0.0.1:${this.#registryPort}`;
  }

  async stop(): Promise<void> {
    await this.umountAll();
    await this.daemon.stop();
    await this.way.stop();
    await this.#registry?.stop();
    const mounts = await listMounts();
    if (mounts.some(({ mountPoint }) => mountPoint === this.cacheDir)) {
      unmount(this.cacheDir, { lazy: false });
    }
    await rm(this.home, { recursive: true, force: true });
  }

  async stopRegistry(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    this.way.cut();
    await this.#registry?.stop(signal);
    this.#registry = undefined;
  }

  async startRegistry(): Promise<void> {
    const storage = join(this.home, "registry");
    this.#registry = await startDockerRegistry({ storage, port: this.#registryPort });
  }

  /** No byte comes from it any more, though it seems to be there. */
  pauseRegistry(isPaused: boolean): void {
    this.way.set({ stalls: isPaused });
  }

  /** Ends the daemon in order and starts another, with whatever happens `between`; `cache`: TOML. */
  async restart(between: () => Promise<void> = () => Promise.resolve(), cache = ""): Promise<void> {
    const status = await this.daemon.stop();
    if (status !== 0) throw new Error(`the daemon ended with ${status}`);
    await between();
    this.daemon = await Site.#startDaemon(this.cacheDir, this.#options, cache);
  }

  /** Another daemon, where the one before is gone. */
  async startAgain(): Promise<void> {
    this.daemon = await Site.#startDaemon(this.cacheDir, this.#options);
  }

  /** Kills the daemon, unmounts what it leaves, and starts another after `between`. */
  async crash(between: () => Promise<void>): Promise<void> {
    await this.daemon.stop("SIGKILL");
    await this.umountAll();
    await between();
    this.daemon = await Site.#startDaemon(this.cacheDir, this.#options);
  }

  /** Pushes a file as an image of one raw layer; its reference. */
  async pushRaw(path: string, tag: string): Promise<string> {
    const target = { host: this.registryHost, repository: "raw" };
    await pushImage(target, tag, [{ body: { path }, mediaType: EROFS_LAYER_V1 }]);
    return `${this.host}/raw:${tag}`;
  }

  /** Mounts it with the command line; the directory. */
  async mount(reference: string, args: readonly string[] = []): Promise<string> {
    const directory = join(this.home, `mount-${(this.#mounts += 1)}`);
    await mkdir(directory);
    await this.erofsd(["mount", reference, directory, ...args]);
    return directory;
  }

  async umount(directory: string): Promise<void> {
    await this.erofsd(["umount", directory]);
  }

  async erofsd(args: readonly string[]): Promise<string> {
    return must(process.execPath, [program, ...args, "--socket", this.daemon.socketPath]);
  }

  async umountAll(): Promise<void> {
    for (const { mountPoint } of (await listMounts()).toReversed()) {
      if (mountPoint === this.cacheDir || !mountPoint.startsWith(`${this.home}/`)) continue;
      unmount(mountPoint, { lazy: true });
    }
  }

  /** Inode numbers that the daemon has marked. */
  async marks(): Promise<string[]> {
    const directory = `/proc/${this.daemon.pid}/fdinfo`;
    const marks: string[] = [];
    for (const fd of await readdir(directory)) {
      const text = await readFile(join(directory, fd), "utf8").catch(() => "");
      for (const [, inode] of text.matchAll(/^fanotify ino:([0-9a-f]+)/gm)) marks.push(inode ?? "");
    }
    return marks;
  }

  async openFds(): Promise<number> {
    return (await readdir(`/proc/${this.daemon.pid}/fd`)).length;
  }

  /** Cache files, without their records. */
  async cacheFiles(): Promise<string[]> {
    const directory = join(this.cacheDir, "fanotify/streams");
    const names = await readdir(directory);
    return names.filter((name) => !name.includes(".")).map((name) => join(directory, name));
  }

  /** Resolves when `test` holds, which must be within that time. */
  async until(what: string, test: () => Promise<boolean>, withinMs = 10_000): Promise<void> {
    const untilMs = Date.now() + withinMs;
    while (!(await test())) {
      if (Date.now() > untilMs) throw new Error(`not within ${withinMs} ms: ${what}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async untilIdle(): Promise<void> {
    const isIdle = async (): Promise<boolean> => {
      const { objects } = await this.daemon.status();
      return objects.length === 0;
    };
    await this.until("nothing is open", isIdle);
  }
}

// SPDX-License-Identifier: Apache-2.0
// The peer on fanotify, nydus v3, with its own image of the same tree behind the same slow registry;
// EROFSD_PEERS is a folder with nydus3, slowreg and what makes our image. One daemon at a time.

import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import {
  cp,
  link,
  mkdir,
  mkdtemp,
  readFile,
  readdir,
  rename,
  rm,
  stat,
  writeFile,
} from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { request } from "undici";
import * as z from "zod";
import { unmount } from "../../../src/kernel/mount.ts";
import { listMounts } from "../../../src/kernel/mountinfo.ts";
import { TAG, preparePeerImage, writeBenchTree } from "../peers/image.ts";
import { Mounted } from "./site.ts";

const exec = promisify(execFile);
/** Changes whenever what is made changes. */
const VERSION = 1;
const REPOSITORY = "img";
const SHAPE = ["-rtt", "20ms", "-bw", "100000000"];
const PATIENCE_MS = 30_000;

/** A mount of either daemon, fresh. */
export interface PeerMount {
  readonly target: string;
  /** From its start until it can be read. */
  readonly mountMs: number;
  readonly pid: number;
  stop(): Promise<void>;
}

export class PeerSite {
  readonly #peers: string;
  readonly #directory: string;
  readonly #registry: ChildProcess;
  readonly #host: string;
  readonly #scratch: string;
  #runs = 0;

  private constructor(of: {
    peers: string;
    directory: string;
    registry: ChildProcess;
    host: string;
    scratch: string;
  }) {
    this.#peers = of.peers;
    this.#directory = of.directory;
    this.#registry = of.registry;
    this.#host = of.host;
    this.#scratch = of.scratch;
  }

  static async start(home: string, peers: string, port: number): Promise<PeerSite> {
    const directory = await prepare(home, peers);
    const host = `127.0.0.1:${port}`;
    const args = ["-addr", host, "-layout", join(directory, "layout"), ...SHAPE];
    const registry = spawn(join(peers, "slowreg"), args, {
      stdio: ["ignore", "ignore", "inherit"],
    });
    await until("the slow registry", () => answers(`http://${host}/v2/`));
    const scratch = await mkdtemp(join(home, "fanotify-peer-"));
    return new PeerSite({ peers, directory, registry, host, scratch });
  }

  async ours(): Promise<PeerMount> {
    const reference = `${this.#host}/${REPOSITORY}:${TAG}`;
    const mounted = await Mounted.start(this.#home(), { reference, config: "" });
    const { target, mountMs, daemon } = mounted;
    return { target, mountMs, pid: daemon.pid, stop: () => mounted.stop() };
  }

  async theirs(): Promise<PeerMount> {
    const home = this.#home();
    const target = join(home, "mounted");
    for (const name of ["mounted", "cache", "log"])
      await mkdir(join(home, name), { recursive: true });
    // It knows no other way to be told that there is no TLS.
    const backend = {
      type: "registry",
      config: { host: this.#host, repo: REPOSITORY, insecure: true },
    };
    const cache = { type: "local", config: { dir: join(home, "cache") } };
    // JSON is YAML.
    await writeFile(join(home, "config.yaml"), JSON.stringify({ backend, cache }));
    const places = ["--bootstrap", join(this.#directory, "boot"), "--mountpoint", target];
    const options = ["--config", join(home, "config.yaml"), "--log-dir", join(home, "log")];
    const startMs = performance.now();
    const args = ["fanotify", ...places, ...options, "--log-level", "warn"];
    const daemon = spawn(join(this.#peers, "nydus3"), args, { stdio: "ignore" });
    await until("nydus3", async () =>
      (await listMounts()).some(({ mountPoint }) => mountPoint === target),
    );
    const mountMs = performance.now() - startMs;
    const stop = async (): Promise<void> => {
      unmount(target, { lazy: true });
      const ended = once(daemon, "exit");
      daemon.kill("SIGTERM");
      await ended;
      await rm(home, { recursive: true, force: true });
    };
    return { target, mountMs, pid: daemon.pid ?? 0, stop };
  }

  async carriedMb(): Promise<number> {
    const { body } = await request(`http://${this.#host}/stats`);
    return z.looseObject({ bytes: z.number() }).parse(await body.json()).bytes / 1e6;
  }

  async forgetCarried(): Promise<void> {
    const { body } = await request(`http://${this.#host}/reset`, { method: "POST" });
    await body.dump();
  }

  async stop(): Promise<void> {
    this.#registry.kill();
    await rm(this.#scratch, { recursive: true, force: true });
  }

  #home(): string {
    return join(this.#scratch, `run-${(this.#runs += 1)}`);
  }
}

/** `layout` with the blobs of both, and `boot`, the peer's bootstrap. */
async function prepare(home: string, peers: string): Promise<string> {
  const directory = join(home, `fanotify-peer-${VERSION}`);
  const isThere = await stat(directory).catch(() => undefined);
  if (isThere !== undefined) return directory;
  const layout = await preparePeerImage(home, peers);
  const scratch = await mkdtemp(join(home, "scratch-"));
  try {
    const [root, blobs, made] = ["root", "blobs", "made"].map((name) => join(scratch, name));
    if (root === undefined || blobs === undefined || made === undefined) throw new Error("three");
    await mkdir(blobs);
    await mkdir(made);
    await writeBenchTree(root);
    const to = ["--blob-dir", blobs, "--bootstrap", join(made, "boot")];
    await exec(join(peers, "nydus3"), ["build", ...to, "--log-level", "error", root]);
    await cp(layout, join(made, "layout"), { recursive: true });
    for (const name of await readdir(blobs)) {
      if (!/^[0-9a-f]{64}$/.test(name)) continue;
      await link(join(blobs, name), join(made, "layout/blobs/sha256", name));
    }
    await rename(made, directory);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
  return directory;
}

async function answers(url: string): Promise<boolean> {
  try {
    const { body } = await request(url);
    await body.dump();
    return true;
  } catch {
    return false;
  }
}

async function until(what: string, test: () => Promise<boolean>): Promise<void> {
  for (const endMs = performance.now() + PATIENCE_MS; !(await test()); await sleep(2)) {
    if (performance.now() > endMs) throw new Error(`${what} does not start`);
  }
}

/** The most memory that it has had, MiB. */
export async function peakMib(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  const [, kib = "0"] = /^VmHWM:\s+(\d+) kB$/m.exec(status) ?? [];
  return Number(kib) / 1024;
}

// SPDX-License-Identifier: Apache-2.0
// What a snapshotter has around its daemon: a root directory with the cache on the guest's disk,
// snapshots with a bootstrap each, a supervisor, a registry, mounts.

import { strictEqual } from "node:assert/strict";
import { copyFile, mkdir, mkdtemp, readFile, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fsidOf } from "../../src/nydusd/fsid.ts";
import { FIXTURES, type FixtureImage } from "../support/rafs-fixtures.ts";
import { Nydusd } from "./nydusd-process.ts";
import { BlobRegistry } from "./nydusd-registry.ts";
import { FakeSupervisor } from "./nydusd-supervisor.ts";
import { type Expectation, expectTree } from "./support/nydus-images.ts";
import { type Ended, must, run } from "./support/run.ts";
import { DISK, SLOWNESS } from "./support/settings.ts";

const IMAGES = ["zstd-sha256", "lz4-sha256", "none-sha256"] as const;
export type ImageName = (typeof IMAGES)[number];
/** The recording's registry. */
const PORT = 5060;
/** Whoever reads what is damaged waits for so long. */
const READ_TIMEOUT_S = 4 * SLOWNESS;
/** How long the snapshotter's supervisor listens. */
const SUPERVISOR_SECONDS = 10 * SLOWNESS;

/** Of `PUT /api/v2/blobs`. */
export interface BindBody {
  readonly id: string;
  readonly config: {
    readonly backend_config: Readonly<Record<string, unknown>>;
    readonly [field: string]: unknown;
  };
  readonly [field: string]: unknown;
}

export class Site {
  readonly root: string;
  readonly supervisor: FakeSupervisor;
  readonly registry: BlobRegistry;
  readonly #mounts = new Set<string>();

  private constructor(root: string, registry: BlobRegistry) {
    this.root = root;
    this.registry = registry;
    this.supervisor = new FakeSupervisor(join(root, "supervisor", "d1.sock"), SUPERVISOR_SECONDS);
  }

  static async make(): Promise<Site> {
    const root = await mkdtemp(join(DISK, "snapshotter-"));
    for (const name of ["cache", "socket/d1", "supervisor", "logs"]) {
      await mkdir(join(root, name), { recursive: true });
    }
    const directories = IMAGES.map((name) => join(FIXTURES, "directory", name));
    directories.push(join(FIXTURES, "layout/blobs/sha256"));
    const site = new Site(root, await BlobRegistry.start(directories, PORT));
    await site.snapshot("2", "zstd-sha256");
    return site;
  }

  /** Unmounts, and ends supervisor and registry, and what a failed test left running. */
  async stop(): Promise<void> {
    await this.umountAll();
    await this.supervisor.stop();
    await this.registry.stop();
    // A keeper that holds the device would fail all tests after this one.
    for (const name of await readdir("/proc")) {
      if (!/^\d+$/.test(name)) continue;
      const words = await readFile(`/proc/${name}/cmdline`, "utf8").catch(() => "");
      if (words.includes(`${this.root}/`)) process.kill(Number(name), "SIGKILL");
    }
  }

  /** The arguments of a daemon; `supervised` is the failover policy. */
  args(options: { supervised: boolean; socket?: string; upgrade?: boolean }): string[] {
    const { supervised, socket = "api.sock", upgrade = false } = options;
    return [
      "singleton",
      "--fscache",
      join(this.root, "cache"),
      "--fscache-threads",
      "4",
      ...(upgrade ? ["--upgrade"] : []),
      ...(supervised ? ["--id", "d1"] : []),
      "--apisock",
      join(this.root, "socket/d1", socket),
      "--log-level",
      "info",
      ...(supervised ? ["--supervisor", this.supervisor.path] : []),
    ];
  }

  /** A daemon that serves; an impatient one fails reads soon. */
  async start(options: { supervised: boolean; isImpatient?: boolean }): Promise<Nydusd> {
    const args = this.args(options);
    if (options.isImpatient === true) {
      const config = join(this.root, "impatient.toml");
      await writeFile(config, `[limits]\nread_timeout = "${READ_TIMEOUT_S}s"\n`);
      args.push("--config", config);
    }
    const daemon = new Nydusd(args);
    await daemon.untilListening();
    await daemon.untilState("RUNNING");
    return daemon;
  }

  /** Puts an image's bootstrap where a snapshot has it. */
  async snapshot(id: string, image: ImageName): Promise<void> {
    const home = join(this.root, "snapshots", id, "fs", "image");
    await mkdir(home, { recursive: true });
    await copyFile(join(FIXTURES, "directory", image, "bootstrap"), join(home, "image.boot"));
  }

  /** The same with any image's files: its bootstrap, and what lies beside it. */
  async unpack(id: string, image: Pick<FixtureImage, "bootstrap" | "blobMeta">): Promise<void> {
    const home = join(this.root, "snapshots", id, "fs", "image");
    await mkdir(home, { recursive: true });
    await writeFile(join(home, "image.boot"), image.bootstrap);
    for (const [blob, bytes] of image.blobMeta) {
      await writeFile(join(home, `${blob}.blob.meta`), bytes);
    }
  }

  /** The 64 digits of an image's only blob. */
  async blobOf(image: ImageName): Promise<string> {
    const names = await readdir(join(FIXTURES, "directory", image));
    return names.find((name) => name !== "bootstrap") ?? "";
  }

  /** What the snapshotter sends for a snapshot. */
  body(id: string, extra: object = {}): BindBody {
    const fs = join(this.root, "snapshots", id, "fs");
    return {
      type: "bootstrap",
      id: fsidOf(id),
      domain_id: fsidOf(id),
      config: {
        id: fsidOf(id),
        backend_type: "registry",
        backend_config: {
          readahead: false,
          host: `127.0.0.1:${PORT}`,
          repo: "big",
          auth: Buffer.from("alice:one").toString("base64"),
          scheme: "http",
          skip_verify: true,
          proxy: { fallback: false },
          timeout: 5,
          connect_timeout: 5,
          retry_limit: 2,
        },
        cache_type: "fscache",
        cache_config: { work_dir: fs },
        prefetch_config: {
          enable: false,
          threads_count: 2,
          merging_size: 1048576,
          bandwidth_rate: 0,
          prefetch_all: false,
        },
        metadata_path: join(fs, "image", "image.boot"),
      },
      ...extra,
    };
  }

  async mount(fsid: string, domain?: string): Promise<string> {
    const target = await mkdtemp("/tmp/mnt-");
    const ended = await this.tryMount(fsid, target, domain);
    strictEqual(ended.status, 0, `mount ${fsid}: ${ended.stderr}`);
    return target;
  }

  async tryMount(fsid: string, target: string, domain?: string): Promise<Ended> {
    const options = domain === undefined ? `fsid=${fsid}` : `domain_id=${domain},fsid=${fsid}`;
    const ended = await run("mount", ["-t", "erofs", "-o", options, "none", target]);
    if (ended.status === 0) this.#mounts.add(target);
    return ended;
  }

  async umount(target: string): Promise<void> {
    await must("umount", [target]);
    this.#mounts.delete(target);
  }

  async umountAll(): Promise<void> {
    for (const target of this.#mounts) await run("umount", ["-l", target]);
    this.#mounts.clear();
  }

  /** Every path of the mount is as the image was made. */
  async expectTree(target: string, expectation: Expectation = "directory"): Promise<void> {
    await expectTree(target, expectation);
  }
}

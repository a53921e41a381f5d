// SPDX-License-Identifier: Apache-2.0
// In the guest: each workload through the kernel, by the peer and by erofsd-nydusd, one after the
// other over the same slow registry, each with an empty cache. Both are driven as a snapshotter
// drives nydusd.
//   guest.js PEERS LAYOUT WORKLOAD...

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createWriteStream } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { request as httpRequest } from "node:http";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { request } from "undici";
import * as z from "zod";
import { findPackageRoot } from "../../../src/platform/package-root.ts";
import { NYDUS_BLOB_ANNOTATION, OCI_MANIFEST } from "../../../src/image/oci/media-types.ts";
import { BIG_FILE, BIG_MIB, SMALL_FILE, TAG } from "./image.ts";
import { BANDWIDTH, ROUND_TRIP_MS, type Measured, WORKLOADS, type Workload } from "./measured.ts";

const [, , peers = "", layout = "", ...only] = process.argv;
const REGISTRY = "127.0.0.1:5060";
const REPOSITORY = "img";
const DISK = "/mnt/disk";
const TARGET = "/mnt/image";
const ROOT = fileURLToPath(findPackageRoot());
const READER = join(ROOT, "test/bench/peers/reader.py");
const PATIENCE_MS = 60_000;
/** Less than half of the guest's memory, which is what its tmpfs takes. */
const BALLAST_MIB = 1400;

const DAEMONS = {
  nydusd: [join(peers, "nydusd")],
  ours: [join(ROOT, "dist/cli/erofsd-nydusd.js")],
} as const;
type DaemonName = keyof typeof DAEMONS;

const manifestSchema = z.object({
  layers: z.array(
    z.object({ digest: z.string(), annotations: z.record(z.string(), z.string()).optional() }),
  ),
});

await main();

async function main(): Promise<void> {
  const shape = ["-rtt", `${ROUND_TRIP_MS}ms`, "-bw", String(BANDWIDTH)];
  const registry = spawn(join(peers, "slowreg"), ["-addr", REGISTRY, "-layout", layout, ...shape], {
    stdio: ["ignore", "ignore", "inherit"],
  });
  await until(() => ok(request(`http://${REGISTRY}/v2/`)));
  const boot = await unpackBootstrap();
  await touchMemory();
  const results: Measured[] = [];
  for (const workload of WORKLOADS.filter((one) => only.includes(one))) {
    for (const daemon of ["nydusd", "ours"] as const) {
      const { seconds, details } = await measure(daemon, workload, boot);
      results.push({ workload, daemon, seconds, details });
      console.log(`${workload}, ${daemon}: ${seconds.toFixed(3)} s`);
    }
  }
  results.push({ workload: "download", daemon: "curl", ...(await download()) });
  await writeFile("/mnt/out/results.json", JSON.stringify(results));
  registry.kill();
  process.exit(0);
}

/**
 * Memory that this machine has never touched may cost ten times as much to touch, once: whoever
 * comes first would pay for it.
 */
async function touchMemory(): Promise<void> {
  const ballast = "/dev/shm/ballast";
  await must("dd", [
    "if=/dev/zero",
    `of=${ballast}`,
    "bs=1M",
    `count=${BALLAST_MIB}`,
    "status=none",
  ]);
  await rm(ballast);
}

type Cost = Pick<Measured, "seconds" | "details">;

async function measure(name: DaemonName, workload: Workload, boot: string): Promise<Cost> {
  const home = await mkdtemp(join(DISK, `${name}-`));
  await writeFile("/proc/sys/vm/drop_caches", "3");
  await mkdir(TARGET, { recursive: true });
  const apiSocket = join("/run", `${name}.sock`);
  await rm(apiSocket, { force: true });
  await mkdir(join(home, "cache"));
  await mkdir(join(home, "work"));
  const [program, ...args] = DAEMONS[name];
  const options = ["singleton", "--fscache", join(home, "cache"), "--fscache-threads", "4"];
  const daemon = spawn(
    program,
    [...args, ...options, "--apisock", apiSocket, "--log-level", "warn"],
    {
      stdio: ["ignore", "pipe", "pipe"],
    },
  );
  const log = createWriteStream(`/mnt/out/${name}-${workload}.log`);
  daemon.stdout.pipe(log, { end: false });
  daemon.stderr.pipe(log, { end: false });
  try {
    await until(async () => {
      const answer = await ask(apiSocket, "GET", "/api/v1/daemon").catch(() => "");
      return answer.includes("RUNNING");
    });
    await ask(
      apiSocket,
      "PUT",
      "/api/v2/blobs",
      bindOf(home, boot, workload === "prefetched start"),
    );
    await must("mount", ["-t", "erofs", "-o", "fsid=img,domain_id=dom", "none", TARGET]);
    await request(`http://${REGISTRY}/reset`, { method: "POST" });
    const before = await cpuSeconds(daemon);
    const { seconds, details } = await run(workload);
    const common = {
      "CPU s": (await cpuSeconds(daemon)) - before,
      "MB carried": await carriedMb(),
      "MiB peak": await peakMib(daemon),
    };
    await must("umount", [TARGET]);
    return { seconds, details: { ...details, ...common } };
  } finally {
    const ended = once(daemon, "exit");
    daemon.kill("SIGTERM");
    await ended;
    await rm(home, { recursive: true, force: true });
  }
}

async function run(workload: Workload): Promise<Cost> {
  const [big, small] = [join(TARGET, BIG_FILE), join(TARGET, SMALL_FILE)];
  switch (workload) {
    case "first 4 KiB": {
      const [first = Number.NaN] = await blocks(small, "few");
      const more = await blocks(big, "few");
      const details = Object.fromEntries(
        more.map((seconds, n) => [`ms ${n + 1} of the large file`, seconds * 1000]),
      );
      return { seconds: first, details };
    }
    case "random": {
      const each = await blocks(big, "random");
      const sorted = each.toSorted((a, b) => a - b).map((seconds) => seconds * 1000);
      const at = (share: number): number => sorted[Math.floor(sorted.length * share)] ?? Number.NaN;
      const details = { "ms p50": at(0.5), "ms p90": at(0.9), "ms p99": at(0.99) };
      return { seconds: each.reduce((sum, one) => sum + one, 0), details };
    }
    case "sequential":
      return await program("sh", ["-c", `exec cat ${big} > /dev/null`]);
    case "16 readers": {
      const part = `dd if=${big} of=/dev/null bs=1M skip=$((${BIG_MIB / 16} * i)) count=${BIG_MIB / 16} status=none`;
      return await program("sh", ["-c", `for i in $(seq 0 15); do ${part} & done; wait`]);
    }
    case "start":
    case "prefetched start":
      return await program("chroot", [TARGET, "/usr/bin/python3", "/opt/start.py"]);
    case "tar":
      break;
  }
  return await program("sh", ["-c", `tar -C ${TARGET} -cf - usr/lib | cat > /dev/null`]);
}

/** Cold, and again: what of it is not fetching. */
async function program(name: string, args: readonly string[]): Promise<Cost> {
  const seconds = await must(name, args);
  return { seconds, details: { "s again": await must(name, args) } };
}

async function blocks(path: string, how: "few" | "random"): Promise<number[]> {
  const child = spawn("/usr/bin/python3", [READER, path, how], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const text = (await buffer(child.stdout)).toString();
  return z
    .array(z.number())
    .parse(JSON.parse(text))
    .map((ms) => ms / 1000);
}

/** Seconds. */
async function must(program: string, args: readonly string[]): Promise<number> {
  const startMs = performance.now();
  const child = spawn(program, args, { stdio: ["ignore", "ignore", "inherit"] });
  await once(child, "exit");
  if (child.exitCode !== 0) throw new Error(`${program} ${args.join(" ")}: ${child.exitCode}`);
  return (performance.now() - startMs) / 1000;
}

async function unpackBootstrap(): Promise<string> {
  const manifest = await manifestOf();
  const layer = manifest.layers.at(-1)?.digest ?? "";
  const { body } = await request(`http://${REGISTRY}/v2/${REPOSITORY}/blobs/${layer}`);
  const directory = await mkdtemp("/run/boot-");
  await writeFile(join(directory, "layer.tar.gz"), Buffer.from(await body.arrayBuffer()));
  await must("tar", ["-C", directory, "-xzf", join(directory, "layer.tar.gz")]);
  return join(directory, "image/image.boot");
}

async function manifestOf(): Promise<z.infer<typeof manifestSchema>> {
  const { body } = await request(`http://${REGISTRY}/v2/${REPOSITORY}/manifests/${TAG}`, {
    headers: { accept: OCI_MANIFEST },
  });
  return manifestSchema.parse(await body.json());
}

/** All of the blob with the data, by one GET. */
async function download(): Promise<Cost> {
  const { layers } = await manifestOf();
  const blob = layers.find(({ annotations }) => annotations?.[NYDUS_BLOB_ANNOTATION] !== undefined);
  const url = `http://${REGISTRY}/v2/${REPOSITORY}/blobs/${blob?.digest}`;
  await request(`http://${REGISTRY}/reset`, { method: "POST" });
  const seconds = await must("curl", ["-sf", "-o", "/dev/null", url]);
  return { seconds, details: { "MB carried": await carriedMb() } };
}

async function carriedMb(): Promise<number> {
  const { body } = await request(`http://${REGISTRY}/stats`);
  return z.looseObject({ bytes: z.number() }).parse(await body.json()).bytes / 1e6;
}

/** Of all its threads, user and system: proc(5), "stat", fields 14 and 15, in hundredths. */
async function cpuSeconds({ pid }: ChildProcess): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** What a snapshotter binds an image with. */
function bindOf(home: string, boot: string, prefetch: boolean): object {
  const backend_config = { scheme: "http", host: REGISTRY, repo: REPOSITORY, skip_verify: true };
  const prefetch_config = {
    enable: prefetch,
    threads_count: 4,
    merging_size: 1_048_576,
    bandwidth_rate: 0,
    prefetch_all: true,
  };
  const config = {
    id: "img",
    backend_type: "registry",
    backend_config,
    cache_type: "fscache",
    cache_config: { work_dir: join(home, "work") },
    prefetch_config,
    metadata_path: boot,
  };
  return { type: "bootstrap", id: "img", domain_id: "dom", config };
}

function ask(socketPath: string, method: string, path: string, body?: object): Promise<string> {
  return new Promise((resolve, reject) => {
    const asked = httpRequest({ socketPath, method, path, agent: false }, (response) => {
      buffer(response).then((text) => {
        const status = response.statusCode ?? 0;
        if (status < 300) resolve(text.toString());
        else reject(new Error(`${method} ${path}: ${status} ${text.toString()}`));
      }, reject);
    });
    asked.on("error", reject);
    asked.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

async function peakMib({ pid }: ChildProcess): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  const [, kib = "0"] = /^VmHWM:\s+(\d+) kB$/m.exec(status) ?? [];
  return Number(kib) / 1024;
}

async function ok(work: Promise<unknown>): Promise<boolean> {
  return work.then(
    () => true,
    () => false,
  );
}

async function until(test: () => Promise<boolean>): Promise<void> {
  for (const endMs = performance.now() + PATIENCE_MS; !(await test()); await sleep(20)) {
    if (performance.now() > endMs) throw new Error("a daemon or the registry does not start");
  }
}

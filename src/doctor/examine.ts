// SPDX-License-Identifier: Apache-2.0
// Looks at all that erofsd needs: configuration, rights, compiled parts, each door, the daemon.
// Everything is tried, nothing is guessed from version numbers, and nothing is left behind.

import { rmSync } from "node:fs";
import { mkdir, mkdtemp, rm, stat } from "node:fs/promises";
import { release } from "node:os";
import { join } from "node:path";
import {
  type Config,
  DEFAULT_CONFIG_PATH,
  DOORS,
  type DoorKind,
  loadConfig,
  parseConfig,
} from "../config/config.ts";
import { RemoteError, ask } from "../control/client.ts";
import { healthAnswer, readyAnswer } from "../control/schema.ts";
import { DaemonError, asDaemonError } from "../errors.ts";
import { type Trial, tryCachefiles } from "../kernel/cachefiles/trial.ts";
import { findKeeper } from "../kernel/keeper.ts";
import { systemClock as clock } from "../platform/clock.ts";
import type { Log } from "../platform/log.ts";
import { type Native, loadNative } from "../platform/native.ts";
import {
  filesystemFinding,
  holderOf,
  kernelOptions,
  missingOptions,
  nearestDirectory,
  rightsFinding,
} from "./machine.ts";
import type { DoorFinding, Finding, Report } from "./report.ts";
import { tryFanotify, tryWhole } from "./try-doors.ts";

export interface ExamineOptions {
  readonly configPath: string | undefined;
  /** In place of the configuration's. */
  readonly socketPath: string | undefined;
  readonly log: Log;
}

export async function examine({ configPath, socketPath, log }: ExamineOptions): Promise<Report> {
  const { config, finding, fault: configFault } = await readConfig(configPath);
  const daemon = await daemonFinding(socketPath ?? config.control.socket);
  const parts = await compiledFindings();
  const near = await nearestDirectory(config.cache.dir);
  const findings = [
    finding,
    await rightsFinding(),
    ...parts.findings,
    await filesystemFinding(config.cache.dir, near),
    daemon.finding,
  ];
  const { native } = parts;
  const options = await kernelOptions();
  const doors: DoorFinding[] = [];
  const tried =
    native === undefined ? undefined : { config, near, daemonPid: daemon.pid, native, log };
  for (const door of DOORS) {
    const found = tried === undefined ? untried : await tryDoor(door, tried);
    doors.push({ door, ...found, missingOptions: missingOptions(door, options) });
  }
  const chosen = chooseDoor(config, doors);
  const fault = configFault ?? doorFault(config, doors, chosen) ?? parts.fault;
  return { kernel: release(), doors, findings, chosen, fault };
}

const untried = { works: false, detail: "not tried: the addon is missing" } as const;

async function readConfig(path: string | undefined) {
  const where = path ?? DEFAULT_CONFIG_PATH;
  const what = "configuration";
  const defaults = parseConfig("", "built-in defaults");
  const isThere = await stat(where).then(
    () => true,
    () => false,
  );
  if (path === undefined && !isThere) {
    const detail = `no ${where}: the defaults are used`;
    return {
      config: defaults,
      finding: { what, verdict: "ok", detail } satisfies Finding,
      fault: undefined,
    };
  }
  try {
    const config = await loadConfig(where);
    return {
      config,
      finding: { what, verdict: "ok", detail: where } satisfies Finding,
      fault: undefined,
    };
  } catch (error) {
    const fault = asDaemonError(error);
    const finding = {
      what,
      verdict: "bad",
      detail: fault.message,
      fix: fault.policy.hint,
    } satisfies Finding;
    return { config: defaults, finding, fault };
  }
}

/** The addon with the system's libraries, and what mounts. */
async function compiledFindings() {
  const findings: Finding[] = [];
  let native: Native | undefined;
  let fault: DaemonError | undefined;
  try {
    native = loadNative({ writerThreads: 1 });
    const { tryDecoding } = await import("../decoder/trial.ts");
    await tryDecoding(native);
    findings.push({
      what: "addon",
      verdict: "ok",
      detail: "loads, and decodes zstd, lz4 and deflate",
    });
  } catch (error) {
    fault = asDaemonError(error);
    findings.push({ what: "addon", verdict: "bad", detail: fault.message, fix: fault.policy.hint });
  }
  try {
    await import("ffi-napi");
    findings.push({ what: "system calls", verdict: "ok", detail: "ffi-napi loads" });
  } catch (error) {
    const detail = `ffi-napi does not load: ${error instanceof Error ? error.message : String(error)}`;
    findings.push({
      what: "system calls",
      verdict: "bad",
      detail,
      fix: "npm rebuild ffi-napi ref-napi",
    });
  }
  findings.push(await keeperFinding());
  return { findings, native, fault };
}

/** What outlives the daemon. */
async function keeperFinding(): Promise<Finding> {
  const what = "keeper";
  try {
    return { what, verdict: "ok", detail: await findKeeper() };
  } catch (error) {
    const detail = `it is missing, so mounts end with the daemon: ${asText(error)}`;
    return { what, verdict: "bad", detail, fix: "npm rebuild" };
  }
}

async function daemonFinding(socketPath: string) {
  const what = "daemon";
  const get = { method: "GET" } as const;
  try {
    const health = await ask(socketPath, { ...get, path: "/v1/health", answer: healthAnswer });
    const { pid, version } = health;
    const problem = await ask(socketPath, { ...get, path: "/v1/ready", answer: readyAnswer }).then(
      () => undefined,
      (error: unknown) => asText(error),
    );
    const detail = `pid ${pid}, version ${version}, ${problem ?? "ready"}`;
    return {
      pid,
      finding: { what, verdict: problem === undefined ? "ok" : "bad", detail } satisfies Finding,
    };
  } catch (error) {
    const fix = "erofsd serve, or systemctl start erofsd";
    return {
      pid: undefined,
      finding: { what, verdict: "note", detail: asText(error), fix } satisfies Finding,
    };
  }
}

interface Tried {
  readonly config: Config;
  /** An existing directory on the cache's filesystem. */
  readonly near: string;
  readonly daemonPid: number | undefined;
  readonly native: Native;
  readonly log: Log;
}

type Found = Omit<DoorFinding, "door" | "missingOptions">;

async function tryDoor(
  door: DoorKind,
  { config, near, daemonPid, native, log }: Tried,
): Promise<Found> {
  const { device } = config.kernel;
  try {
    const detail = await withDirectory(near, (directory) => {
      const trial: Trial = { native, clock, log, directory };
      if (door === "cachefiles") return tryCachefiles(trial, device);
      return door === "fanotify" ? tryFanotify(trial) : tryWhole(trial);
    });
    return { works: true, detail };
  } catch (error) {
    const fault = asDaemonError(error);
    if (fault.fault.code !== "device_busy") {
      return { works: false, detail: fault.message, fix: fault.policy.hint, fault };
    }
    const holder = await holderOf(device);
    if (holder !== undefined && holder.pid === daemonPid) {
      return { works: true, detail: `the daemon has ${device} (pid ${holder.pid})` };
    }
    const who = holder === undefined ? "somebody" : `${holder.command} (pid ${holder.pid})`;
    const fix =
      holder?.command === "cachefilesd" ? "systemctl stop cachefilesd" : fault.policy.hint;
    return { works: false, detail: `${device} is held by ${who}`, fix, fault };
  }
}

/** `work` with a directory that is gone afterwards, also after Ctrl-C. */
async function withDirectory<T>(near: string, work: (path: string) => Promise<T>): Promise<T> {
  let directory: string;
  try {
    directory = await mkdtemp(join(near, ".erofsd-doctor-"));
  } catch (error) {
    const detail = `nothing can be written there: ${error instanceof Error ? error.message : String(error)}`;
    throw new DaemonError({ code: "cache_dir_unsuitable", path: near, detail }, { cause: error });
  }
  const interrupted = (): void => {
    rmSync(directory, { recursive: true, force: true });
    process.exit(130);
  };
  process.once("SIGINT", interrupted);
  try {
    await mkdir(join(directory, "fanotify"));
    return await work(directory);
  } finally {
    process.removeListener("SIGINT", interrupted);
    await rm(directory, { recursive: true, force: true, maxRetries: 5 });
  }
}

/** As `erofsd serve` does. */
function chooseDoor({ kernel }: Config, doors: readonly DoorFinding[]): DoorKind | undefined {
  return doors.find(({ door, works }) => works && (kernel.door === "auto" || kernel.door === door))
    ?.door;
}

function doorFault(
  { kernel }: Config,
  doors: readonly DoorFinding[],
  chosen: DoorKind | undefined,
): DaemonError | undefined {
  if (chosen !== undefined) return undefined;
  const faultOf = (wanted: DoorKind) => doors.find(({ door }) => door === wanted)?.fault;
  if (kernel.door !== "auto") {
    return faultOf(kernel.door);
  }
  const reasonOf = (wanted: DoorKind): string =>
    doors.find(({ door }) => door === wanted)?.detail ?? "";
  const [cachefiles, fanotify, full] = DOORS.map(reasonOf);
  const reasons = { cachefiles: cachefiles ?? "", fanotify: fanotify ?? "", full: full ?? "" };
  return new DaemonError({ code: "no_door", ...reasons });
}

function asText(error: unknown): string {
  if (error instanceof RemoteError) return error.failure.message;
  return asDaemonError(error).message;
}

// SPDX-License-Identifier: Apache-2.0
// The daemon's configuration: its schema, its defaults, and errors that name the key.
// Pure but for loadConfig and loadConfigOrDefault. The text is TOML 1.0.

import { readFile, stat } from "node:fs/promises";
import { distance } from "fastest-levenshtein";
import { TomlError, parse } from "smol-toml";
import * as z from "zod";
import { DaemonError } from "../errors.ts";
import { volumePartProblem } from "../kernel/cachefiles/keys.ts";
import { LOG_FORMATS, LOG_LEVELS } from "../platform/log-choices.ts";
import { BLOCK_BYTES } from "../units.ts";
import { registryCredentials } from "./credentials.ts";
import { loopbackAddress } from "./listen-address.ts";
import { bytes, milliseconds } from "./quantities.ts";

export const DEFAULT_CONFIG_PATH = "/etc/erofsd/config.toml";
export const DEFAULT_SOCKET_PATH = "/run/erofsd/erofsd.sock";

/** Ways to the kernel, the best first. */
export const DOORS = ["cachefiles", "fanotify", "full"] as const;
export type DoorKind = (typeof DOORS)[number];
export const DOOR_WISHES = ["auto", ...DOORS] as const;
export type DoorWish = (typeof DOOR_WISHES)[number];

const absolutePath = z.string().startsWith("/", "an absolute path");
const percent = z.int().min(0).max(99);

const cache = z
  .strictObject({
    /** Holds the kernel's cache files and the daemon's state; ext4 or xfs. */
    dir: absolutePath.default("/var/lib/erofsd"),
    tag: z
      .string()
      .regex(/^[!-~]{1,64}$/, "1 to 64 visible ASCII characters")
      .default("erofsd"),
    brun: percent.default(7),
    bcull: percent.default(5),
    bstop: percent.default(1),
    frun: percent.default(7),
    fcull: percent.default(5),
    fstop: percent.default(1),
    /** fanotify: what cache files may take together. */
    size: bytes("16MiB", "1048576GiB").optional(),
  })
  .superRefine((limits, context) => {
    for (const kind of ["b", "f"] as const) {
      const [stop, cull, run] = [
        limits[`${kind}stop`],
        limits[`${kind}cull`],
        limits[`${kind}run`],
      ];
      if (stop < cull && cull < run) continue;
      const message = `${kind}stop < ${kind}cull < ${kind}run must hold (${stop}, ${cull}, ${run})`;
      context.addIssue({ code: "custom", message, path: [`${kind}cull`] });
    }
  });

const domainId = z.string().superRefine((value, context) => {
  const problem = volumePartProblem(value);
  if (problem !== undefined) context.addIssue(problem);
  else if (/[,\s]/.test(value)) context.addIssue("it holds a comma or a blank");
});

const url = z.string().refine((text) => {
  return URL.canParse(text) && /^https?:$/.test(new URL(text).protocol);
}, "write http://host:port");
/** What may be in a header; line breaks may not. */
const headerName = z.string().regex(/^[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}$/, "a header's name");
const headerValue = z.string().regex(/^[\x20-\x7e]{0,4096}$/, "visible ASCII characters");

const p2p = z
  .strictObject({
    /** Address of a peer-to-peer HTTP proxy; without it there is none. */
    proxy: url.optional(),
    /** Answers 2xx while the proxy works. */
    health: url.optional(),
    check_interval: milliseconds("100ms", "10m").prefault("5s"),
    fallback: z.boolean().default(true),
    use_http: z.boolean().default(false),
    /** Registries (host or host:port, as references name them) that it is for; none: for all. */
    hosts: z.array(z.string().min(1)).max(1000).default([]),
    piece: bytes("64KiB", "64MiB").prefault("4MiB"),
    patience: milliseconds("100ms", "10m").prefault("5s"),
    prefetch_hint: z.boolean().default(false),
    headers: z.record(headerName, headerValue).default({}),
  })
  .superRefine(({ proxy, health, hosts, headers }, context) => {
    if (proxy !== undefined) return;
    const isSet = health !== undefined || hosts.length > 0 || Object.keys(headers).length > 0;
    if (isSet) context.addIssue("it names no proxy");
  });

const control = z
  .strictObject({
    socket: absolutePath.default(DEFAULT_SOCKET_PATH),
    /** A loopback address where the same is served, to whoever has the token. */
    listen: loopbackAddress.optional(),
    token_file: absolutePath.optional(),
  })
  .superRefine(({ listen, token_file }, context) => {
    if ((listen === undefined) === (token_file === undefined)) return;
    const [key, message] =
      listen === undefined
        ? (["listen", "control.token_file is for it, and it is not set"] as const)
        : (["token_file", "control.listen needs one: nobody may ask over TCP without"] as const);
    context.addIssue({ code: "custom", message, path: [key] });
  });

export const configSchema = z.strictObject({
  cache: cache.prefault({}),
  kernel: z
    .strictObject({
      /** `auto`: the first of them that is there. `full`: images are fetched whole before a mount. */
      door: z.enum(DOOR_WISHES).default("auto"),
      /** Serves by fanotify though nothing outlives the daemon: if it dies, holes read as zeros. */
      allow_unsafe: z.boolean().default(false),
      device: absolutePath.default("/dev/cachefiles"),
      domain_id: domainId.default("erofsd"),
    })
    .prefault({}),
  control: control.prefault({}),
  /** `listen`: a loopback address where metrics are for whoever is on this machine. */
  metrics: z.strictObject({ listen: loopbackAddress.optional() }).prefault({}),
  log: z
    .strictObject({
      level: z.enum(LOG_LEVELS).default("info"),
      format: z.enum(LOG_FORMATS).default("auto"),
    })
    .prefault({}),
  engine: z
    .strictObject({
      window: bytes("4KiB", "8MiB")
        .refine((value) => value % BLOCK_BYTES === 0, "not a multiple of 4KiB")
        .prefault("1MiB"),
      window_max: bytes("4KiB", "64MiB")
        .refine((value) => value % BLOCK_BYTES === 0, "not a multiple of 4KiB")
        .prefault("8MiB"),
      /** `background`: what is mounted is completed while nobody needs the link. */
      fill: z.enum(["on-demand", "background"]).default("on-demand"),
      integrity: z.enum(["prefer", "require"]).default("prefer"),
      writer_threads: z.int().min(1).max(64).default(4),
    })
    .prefault({}),
  prefetch: z
    .strictObject({
      /** For all together, a second; 0B: no limit. */
      bandwidth: bytes("0B", "64GiB").prefault("0B"),
      /** Prefetches under way at once; others wait for their turn. */
      jobs: z.int().min(1).max(64).default(4),
      /** Look for a trace of each image that is mounted, and fetch what it says first. */
      traces: z.boolean().default(true),
    })
    .prefault({}),
  limits: z
    .strictObject({
      open_timeout: milliseconds("1s", "10m").prefault("15s"),
      read_timeout: milliseconds("1s", "10m").prefault("30s"),
      drain_timeout: milliseconds("0s", "10m").prefault("5s"),
      /** How long readers wait for a daemon when there is none, before the keeper fails them. */
      takeover_timeout: milliseconds("1s", "1h").prefault("30s"),
      bytes_in_flight: bytes("4MiB", "4GiB").prefault("32MiB"),
      /** Unpacked, of a Nydus image. */
      bootstrap: bytes("1MiB", "16GiB").prefault("1GiB"),
    })
    .prefault({}),
  p2p: p2p.prefault({}),
  registry: z
    .strictObject({
      connections: z.int().min(1).max(256).default(8),
      attempts: z.int().min(1).max(20).default(4),
      connect_timeout: milliseconds("100ms", "5m").prefault("5s"),
      headers_timeout: milliseconds("100ms", "5m").prefault("10s"),
      stall_timeout: milliseconds("100ms", "5m").prefault("10s"),
      /** Of a hundred requests that a reader waits for, how many may be made twice. */
      hedge_percent: z.number().min(0).max(50).default(3),
      /** Hosts (host or host:port) spoken to without TLS; loopback hosts always are. */
      plain_http: z.array(z.string().min(1)).max(1000).default([]),
      /** A config.json of docker's; default: where docker has it; empty: none. */
      docker_config: z
        .string()
        .regex(/^(?:\/.*)?$/, "an absolute path, or empty")
        .optional(),
      credentials: registryCredentials,
      /** Hosts' folders as containerd has them, with hosts.toml or certificates in it. */
      certs_dir: absolutePath.default("/etc/containerd/certs.d"),
      /** Looked into before a registry is asked; files named by digest. */
      blob_dirs: z.array(absolutePath).max(16).default([]),
    })
    .prefault({}),
});

export type Config = z.infer<typeof configSchema>;

/** Reads and checks a config file. Fault: config_invalid, naming the file and the key or line. */
export async function loadConfig(path: string): Promise<Config> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : String(error);
    const detail = code === "ENOENT" ? "no such file" : `cannot be read (${code})`;
    throw new DaemonError({ code: "config_invalid", where: path, detail }, { cause: error });
  }
  return parseConfig(text, path);
}

/** That file's, or without one the default file's, if it exists, or the defaults. Fault: config_invalid. */
export async function loadConfigOrDefault(path: string | undefined): Promise<Config> {
  if (path !== undefined) return loadConfig(path);
  const hasDefault = await stat(DEFAULT_CONFIG_PATH).catch(() => undefined);
  return hasDefault === undefined
    ? parseConfig("", "built-in defaults")
    : loadConfig(DEFAULT_CONFIG_PATH);
}

/** Checks a config's text; `where` names it in errors. */
export function parseConfig(text: string, where: string): Config {
  let table: unknown;
  try {
    table = parse(text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const [reason] = error.message.split("\n");
    const detail = `line ${error.line}, column ${error.column}: ${reason}`;
    throw new DaemonError({ code: "config_invalid", where, detail }, { cause: error });
  }
  const result = configSchema.safeParse(table);
  if (result.success) return result.data;
  const detail = result.error.issues.map((issue) => describeIssue(issue)).join("; ");
  throw new DaemonError({ code: "config_invalid", where, detail });
}

function describeIssue(issue: z.core.$ZodIssue): string {
  const at = issue.path.map(String).join(".");
  if (issue.code !== "unrecognized_keys") return `${at}: ${issue.message}`;
  return issue.keys
    .map((key) => {
      const nearest = nearestKey(key, knownKeys(issue.path.map(String)));
      const hint = nearest === undefined ? "" : `, did you mean "${nearest}"?`;
      return `unknown key "${[...issue.path.map(String), key].join(".")}"${hint}`;
    })
    .join("; ");
}

function knownKeys(path: readonly string[]): string[] {
  const defaults: unknown = configSchema.parse({});
  let table: unknown = defaults;
  for (const key of path) {
    table =
      typeof table === "object" && table !== null
        ? Object.entries(table).find(([k]) => k === key)?.[1]
        : undefined;
  }
  return typeof table === "object" && table !== null ? Object.keys(table) : [];
}

function nearestKey(key: string, known: readonly string[]): string | undefined {
  const ranked = known
    .map((candidate) => ({ candidate, steps: distance(key, candidate) }))
    .sort((a, b) => a.steps - b.steps);
  const best = ranked[0];
  return best !== undefined && best.steps <= Math.max(2, key.length / 2)
    ? best.candidate
    : undefined;
}

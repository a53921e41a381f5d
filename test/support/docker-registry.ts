// SPDX-License-Identifier: Apache-2.0
// Starts the distribution project's registry (Debian package docker-registry) on a free loopback
// port with its storage in a directory. Free of test libraries: it also runs inside a guest.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { freePort } from "./port.ts";

const BINARY = "/usr/bin/docker-registry";

export interface RunningRegistry {
  /** `127.0.0.1:<port>`. */
  readonly host: string;
  readonly storage: string;
  /** Ends the process and waits for it; removes the storage when it was not the caller's. */
  stop(signal?: NodeJS.Signals): Promise<void>;
}

export interface RegistryStart {
  /** Where blobs are kept; a new temporary directory by default. */
  readonly storage?: string;
  /** A free port of 127.0.0.1 by default. */
  readonly port?: number;
  readonly address?: string;
  /** A file of user names and passwords as bcrypt hashes, read again whenever it changes. */
  readonly htpasswd?: string;
  /** The URL of a registry that it is a pull-through mirror of. */
  readonly proxyOf?: string;
  /** Tokens of this service open it. */
  readonly tokens?: TokenAuth;
}

/** The registry's own words for where tokens are had and whose signature counts. */
export interface TokenAuth {
  readonly realm: string;
  readonly service: string;
  readonly issuer: string;
  /** Path of a PEM file. */
  readonly rootcertbundle: string;
}

/** Resolves once it listens. Rejects when the binary is missing or it ends before that. */
export async function startDockerRegistry(start: RegistryStart = {}): Promise<RunningRegistry> {
  const home = await mkdtemp(join(tmpdir(), "erofsd-registry-"));
  const storage = start.storage ?? join(home, "storage");
  const address = start.address ?? "127.0.0.1";
  const host = `${address}:${start.port ?? (await freePort())}`;
  const config = join(home, "config.yml");
  await writeFile(config, configText(host, storage, start));
  const child = spawn(BINARY, ["serve", config], { stdio: ["ignore", "ignore", "pipe"] });
  try {
    await listening(child);
  } catch (error) {
    await rm(home, { recursive: true, force: true });
    throw error;
  }
  return {
    host,
    storage,
    async stop(signal = "SIGTERM") {
      if (child.exitCode === null && child.signalCode === null) {
        const ended = once(child, "exit");
        child.kill(signal);
        await ended;
      }
      await rm(home, { recursive: true, force: true });
    },
  };
}

function configText(
  host: string,
  storage: string,
  { htpasswd, tokens, proxyOf }: RegistryStart,
): string {
  const users = htpasswd === undefined ? undefined : { realm: "tests", path: htpasswd };
  const auth = users === undefined ? { token: tokens } : { htpasswd: users };
  return [
    "version: 0.1",
    "log: { level: info, accesslog: { disabled: true } }",
    "storage:",
    `  filesystem: { rootdirectory: ${JSON.stringify(storage)} }`,
    "  delete: { enabled: true }",
    // JSON is YAML.
    ...(users === undefined && tokens === undefined ? [] : [`auth: ${JSON.stringify(auth)}`]),
    ...(proxyOf === undefined ? [] : [`proxy: { remoteurl: ${JSON.stringify(proxyOf)} }`]),
    `http: { addr: ${JSON.stringify(host)} }`,
    "",
  ].join("\n");
}

async function listening(child: ChildProcess): Promise<void> {
  const { stderr } = child;
  if (stderr === null) throw new Error("the registry has no stderr");
  const lines: string[] = [];
  await new Promise<void>((resolve, reject) => {
    child.once("error", (cause) => {
      reject(new Error(`${BINARY} does not start: install docker-registry`, { cause }));
    });
    child.once("exit", () => {
      reject(new Error(`${BINARY} ended: ${lines.slice(-5).join("\n")}`));
    });
    // The pipe is read to its end, or the registry would block on its log.
    createInterface({ input: stderr }).on("line", (line) => {
      if (lines.length < 50) lines.push(line);
      if (line.includes("listening on")) resolve();
    });
  });
}

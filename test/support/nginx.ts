// SPDX-License-Identifier: Apache-2.0
// Starts nginx (Debian package nginx-light) as a TLS front of a registry: on one port for all, on
// another for clients that show a certificate.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort } from "./port.ts";

const BINARY = "/usr/sbin/nginx";
const TRIES = 200;

export interface RunningNginx {
  /** `127.0.0.1:<port>`, with TLS. */
  readonly host: string;
  /** The same for clients with a certificate. */
  readonly strictHost: string;
  stop(): Promise<void>;
}

export interface NginxStart {
  /** Paths of PEM files. */
  readonly caFile: string;
  readonly certFile: string;
  readonly keyFile: string;
  /** `host:port` of the registry, plain. */
  readonly upstream: string;
  /** Lines for the server; REGISTRY stands for the upstream. */
  readonly locations?: readonly string[];
}

export async function startNginx(start: NginxStart): Promise<RunningNginx> {
  const home = await mkdtemp(join(tmpdir(), "erofsd-nginx-"));
  const [port, strictPort] = [await freePort(), await freePort()];
  await writeFile(join(home, "nginx.conf"), configText(home, port, strictPort, start));
  const child = spawn(BINARY, ["-c", join(home, "nginx.conf"), "-p", home, "-e", "stderr"], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  const told: string[] = [];
  child.stderr.on("data", (piece: Buffer) => told.push(piece.toString()));
  const stop = async (): Promise<void> => {
    if (child.exitCode === null && child.signalCode === null) {
      const ended = once(child, "exit");
      child.kill("SIGTERM");
      await ended;
    }
    await rm(home, { recursive: true, force: true });
  };
  try {
    await listening(child, strictPort);
  } catch (error) {
    await stop().catch(() => undefined);
    const why = told.slice(-5).join("");
    throw new Error(`${BINARY} does not start (install nginx-light): ${why}`, { cause: error });
  }
  return { host: `127.0.0.1:${port}`, strictHost: `127.0.0.1:${strictPort}`, stop };
}

function configText(
  home: string,
  port: number,
  strictPort: number,
  { caFile, certFile, keyFile, upstream, locations = [] }: NginxStart,
): string {
  const server = (at: number, more: string): string => `
    server {
      listen 127.0.0.1:${at} ssl;
      ssl_certificate ${certFile};
      ssl_certificate_key ${keyFile};
      ${more}
      proxy_set_header Host $http_host;
      location / { proxy_pass http://${upstream}; }
      ${locations.join("\n").replaceAll("REGISTRY", upstream)}
    }`;
  const folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(
    (name) => `${name}_temp_path ${join(home, name)};`,
  );
  return `
    daemon off;
    worker_processes 1;
    pid ${join(home, "pid")};
    events {}
    http {
      access_log off;
      ${folders.join("\n")}
      ${server(port, "")}
      ${server(strictPort, `ssl_client_certificate ${caFile}; ssl_verify_client on;`)}
    }`;
}

/** It says nothing when it is ready: the door is tried until it opens. */
async function listening(child: ChildProcess, port: number): Promise<void> {
  const ended = new Promise<never>((_, reject) => {
    child.once("error", reject);
    child.once("exit", () => reject(new Error("it ended")));
  });
  ended.catch(() => undefined);
  for (let tries = 0; tries < TRIES; tries += 1) {
    if (await Promise.race([opens(port), ended])) return;
    await Promise.race([new Promise((resolve) => setTimeout(resolve, 20)), ended]);
  }
  throw new Error("it does not listen");
}

function opens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}

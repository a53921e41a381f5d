// SPDX-License-Identifier: Apache-2.0
// A network of Dragonfly on loopback, without a manager: one scheduler, one seed, peers. Each peer
// is an HTTP proxy. The scheduler and the clients take what a manager would say from a file.

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Program, benchPort } from "./program.ts";

export interface Peer {
  readonly program: Program;
  readonly proxyUrl: string;
  readonly healthUrl: string;
}

export interface Network {
  readonly scheduler: Program;
  readonly seed: Peer;
  readonly peers: readonly Peer[];
  stop(): Promise<void>;
}

export interface NetworkStart {
  /** The folder of the programs. */
  readonly programs: string;
  readonly home: string;
  readonly peerCount: number;
  /** Further lines of the scheduler's own part of its configuration. */
  readonly scheduling: readonly string[];
}

export async function startNetwork(start: NetworkStart): Promise<Network> {
  const { programs, home, peerCount } = start;
  await mkdir(home, { recursive: true });
  const schedulerPort = await benchPort();
  const scheduler = await startScheduler(start, schedulerPort);
  const all: Peer[] = [];
  try {
    for (let at = 0; at <= peerCount; at += 1) {
      const name = at === 0 ? "seed" : `peer${at}`;
      all.push(await startPeer({ programs, home, name, schedulerPort, isSeed: at === 0 }));
    }
  } catch (error) {
    await Promise.all([scheduler, ...all.map(({ program }) => program)].map((each) => each.kill()));
    throw error;
  }
  const [seed, ...peers] = all;
  if (seed === undefined) throw new Error("a network has a seed");
  return {
    scheduler,
    seed,
    peers,
    async stop() {
      await Promise.all(
        [scheduler, ...all.map(({ program }) => program)].map((each) => each.kill()),
      );
    },
  };
}

async function startScheduler(
  { programs, home, scheduling }: NetworkStart,
  port: number,
): Promise<Program> {
  const config = join(home, "scheduler.yaml");
  await writeFile(
    config,
    [
      "server:",
      "  advertiseIP: 127.0.0.1",
      "  listenIP: 127.0.0.1",
      `  port: ${port}`,
      `  dataDir: ${home}/scheduler`,
      `  logDir: ${home}/scheduler-log`,
      "scheduler:",
      "  algorithm: default",
      ...scheduling.map((line) => `  ${line}`),
      "metrics: { enable: false }",
      "",
    ].join("\n"),
  );
  const program = new Program(
    join(programs, "df-scheduler"),
    ["--config", config, "--dynconfig", join(home, "scheduler-dyn.yaml")],
    { log: join(home, "scheduler.out"), port },
  );
  await program.start();
  return program;
}

interface PeerStart {
  readonly programs: string;
  readonly home: string;
  readonly name: string;
  readonly schedulerPort: number;
  readonly isSeed: boolean;
}

async function startPeer(start: PeerStart): Promise<Peer> {
  const { programs, home, name, schedulerPort, isSeed } = start;
  const [proxy, health, upload, tcp, quic, metrics, stats] = await Promise.all(
    Array.from({ length: 7 }, () => benchPort()),
  );
  if (proxy === undefined || health === undefined) throw new Error("ports were asked for");
  const dyn = join(home, "dyn.yaml");
  await writeFile(dyn, `scheduler:\n  addrs: ["127.0.0.1:${schedulerPort}"]\n`);
  const config = join(home, `${name}.yaml`);
  await writeFile(
    config,
    [
      `host: { hostname: ${name}, ip: 127.0.0.1 }`,
      `server: { pluginDir: ${home}/${name}/plugin, cacheDir: ${home}/${name}/cache }`,
      `download: { server: { socketPath: ${home}/${name}.sock } }`,
      `upload: { server: { ip: 127.0.0.1, port: ${upload} } }`,
      "scheduler: { announceInterval: 5s }",
      `seedPeer: { enable: ${isSeed}, type: super }`,
      `storage: { dir: ${home}/${name}/storage, server: { tcpPort: ${tcp}, quicPort: ${quic} } }`,
      "proxy:",
      `  server: { ip: 127.0.0.1, port: ${proxy} }`,
      '  registryMirror: { addr: "http://127.0.0.1:1" }',
      // Without `always`, ranges of up to 4 MiB are never shared.
      "  rules: [{ regex: 'blobs/sha256.*', schedulingPolicy: always }]",
      `health: { server: { ip: 127.0.0.1, port: ${health} } }`,
      `metrics: { server: { ip: 127.0.0.1, port: ${metrics} } }`,
      `stats: { server: { ip: 127.0.0.1, port: ${stats} } }`,
      "",
    ].join("\n"),
  );
  const program = new Program(
    join(programs, "dfdaemon"),
    ["--config", config, "--dynconfig", dyn, "--log-dir", join(home, `${name}-log`)],
    { log: join(home, `${name}.out`), port: proxy },
  );
  await program.start();
  return {
    program,
    proxyUrl: `http://127.0.0.1:${proxy}`,
    healthUrl: `http://127.0.0.1:${health}/healthy`,
  };
}

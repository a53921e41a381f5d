// SPDX-License-Identifier: Apache-2.0
// Plays the snapshotter's part of a recorded scenario to real daemons, line by line: starts and
// kills them, mounts and unmounts, listens as the supervisor, and compares every answer.

import { match, strictEqual } from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { isJson } from "../../src/nydusd/bind-fields.ts";
import { fsidOf } from "../../src/nydusd/fsid.ts";
import { Nydusd, NYDUSD } from "./nydusd-process.ts";
import { type Entry, type Exchange, compare, readRecording } from "./nydusd-recorded.ts";
import type { Site } from "./nydusd-site.ts";
import { dropCaches, run } from "./support/run.ts";

/** The recording's only image: of snapshot 2, with one blob. */
const FSID = fsidOf("2");
const BLOB = "2c03d7d1cb0a78b1ae42fe0736cb4936823643005b0f8c06bdf0be0e364d04f6";
/** Sent raw, and recorded without its body. */
const OVERSIZED = 105;
/** The kernel closes what was unmounted a moment later. */
const CLOSING_MS = 300;

export class Replay {
  readonly #site: Site;
  readonly #daemons = new Map<string, Nydusd>();
  /** Images bound, with their domains. */
  readonly #bound = new Map<string, string>();
  readonly problems: string[] = [];
  #current: Nydusd | undefined;
  #target: string | undefined;
  #offered: Promise<void> | undefined;
  #hasState = false;

  constructor(site: Site, running?: Nydusd) {
    this.#site = site;
    this.#current = running;
  }

  get target(): string {
    if (this.#target === undefined) throw new Error("nothing is mounted");
    return this.#target;
  }

  get daemon(): Nydusd {
    if (this.#current === undefined) throw new Error("no daemon runs");
    return this.#current;
  }

  /** Returns how many answers were compared. */
  async play(scenario: string, options: { mounts: boolean }): Promise<number> {
    const names = {
      $ROOT: this.#site.root,
      $ID: "d1",
      [BLOB]: await this.#site.blobOf("zstd-sha256"),
    };
    const entries = readRecording(names).filter((entry) => entry.scenario === scenario);
    let compared = 0;
    for (const [at, entry] of entries.entries()) {
      await this.#playOne(entry, options);
      if (entry.exchange !== undefined) compared += 1;
      const isLastOfPhase = entries[at + 1]?.phase !== entry.phase;
      if (isLastOfPhase && this.#target !== undefined) await this.#readAll(entry.phase);
    }
    return compared;
  }

  async bind(body: object): Promise<void> {
    const answered = await this.daemon.ask("PUT", "/api/v2/blobs", body);
    strictEqual(answered.status, 204, JSON.stringify(answered.body));
    this.#noteBound(body);
  }

  async mount(domain?: string): Promise<void> {
    this.#target = await this.#site.mount(FSID, domain);
  }

  async endAll(): Promise<void> {
    await this.#site.umountAll();
    for (const daemon of [this.#current, ...this.#daemons.values()]) {
      if (daemon?.hasEnded === false) await daemon.end("SIGKILL");
    }
  }

  async #playOne(entry: Entry, options: { mounts: boolean }): Promise<void> {
    switch (entry.channel) {
      case "exec":
        await this.#start(entry);
        break;
      case "process":
        await this.#process(entry);
        break;
      case "liveness":
        await this.#daemonOf(entry).watch();
        break;
      case "api":
        if (entry.exchange !== undefined && entry.n !== OVERSIZED) {
          await this.#exchange(entry, entry.exchange, options);
        }
        break;
      default:
    }
  }

  async #start({ rest, daemon, phase }: Entry): Promise<void> {
    const argv = rest["argv"];
    const words = Array.isArray(argv) ? argv.map(String).slice(1) : [];
    if (words.includes("--version")) {
      const { stdout } = await run(process.execPath, [NYDUSD, "--version"]);
      match(stdout, /Git Commit:\s*[0-9a-f]{40}/);
      return;
    }
    // The state is offered to a daemon that follows another, and from before it starts.
    const isOffered =
      words.includes("--supervisor") && this.#hasState && phase !== "nsrestart-again";
    if (isOffered) this.#offered = (await this.#site.supervisor.offer()).done;
    const started = new Nydusd(words);
    this.#daemons.set(daemon, started);
    if (phase !== "nsrestart-again") this.#current = started;
  }

  async #process(entry: Entry): Promise<void> {
    const daemon = this.#daemonOf(entry);
    if (entry.rest["event"] === "api socket listening") {
      await daemon.untilListening();
      return;
    }
    const isKilled = entry.rest["api_socket_file_left"] === true;
    if (isKilled) strictEqual(await daemon.end("SIGKILL"), "SIGKILL");
    else if (entry.phase === "nsrestart-again") strictEqual(await daemon.end(), 1, daemon.output);
    else if (entry.phase === "nsstop") strictEqual(await daemon.end("SIGTERM"), 0, daemon.output);
    else strictEqual(await daemon.end(), 0, daemon.output);
  }

  async #exchange(entry: Entry, exchange: Exchange, options: { mounts: boolean }): Promise<void> {
    const daemon = this.#daemonOf(entry);
    const { method, path, query, body } = exchange.request;
    await this.#before(exchange, daemon);
    const received = path.endsWith("/sendfd") ? await this.#site.supervisor.receive() : undefined;
    const target = query === null ? path : `${path}?${query}`;
    const answered = await daemon.ask(method, target, body);
    const isBound = (fsid: string): boolean => this.#bound.has(fsid);
    const problem = compare(exchange, answered, { isBound, fsidOf });
    if (problem !== undefined) this.problems.push(`${entry.n} ${entry.phase}: ${problem}`);
    if (received !== undefined) {
      strictEqual((await received.done).fds, 1, "one device for the supervisor");
      this.#hasState = true;
    }
    if (path.endsWith("/takeover") && exchange.response.status === 204) await this.#offered;
    await this.#after(exchange, answered.status, options);
  }

  async #before({ request, response }: Exchange, daemon: Nydusd): Promise<void> {
    const state = isJson(response.body) ? response.body["state"] : undefined;
    if (typeof state === "string") await daemon.untilState(state);
    if (request.path.endsWith("/exit")) daemon.unwatch();
    const query = new URLSearchParams(request.query ?? "");
    // A file is deleted after its image was unmounted.
    const isCull = request.method === "DELETE" && !query.has("domain_id");
    const isMounted = this.#target !== undefined && response.status === 204;
    if (isCull && isMounted && query.get("blob_id") === FSID) {
      await this.#site.umount(this.target);
      this.#target = undefined;
      await sleep(CLOSING_MS);
    }
  }

  async #after(
    { request }: Exchange,
    status: number,
    { mounts }: { mounts: boolean },
  ): Promise<void> {
    const { method, path, query, body } = request;
    if (path !== "/api/v2/blobs" || status !== 204) return;
    if (method === "PUT" && isJson(body)) {
      this.#noteBound(body);
      const domain = body["domain_id"];
      const shared = domain === body["id"] ? undefined : String(domain);
      if (mounts && this.#target === undefined && body["id"] === FSID) await this.mount(shared);
    }
    const gone = new URLSearchParams(query ?? "");
    const domain = gone.get("domain_id");
    if (method !== "DELETE" || domain === null) return;
    for (const [fsid, of] of this.#bound) {
      if (of === domain && (gone.get("blob_id") ?? fsid) === fsid) this.#bound.delete(fsid);
    }
  }

  /** A label that no start was recorded for is the daemon that runs. */
  #daemonOf({ daemon }: Entry): Nydusd {
    const known = this.#daemons.get(daemon) ?? this.daemon;
    this.#daemons.set(daemon, known);
    return known;
  }

  #noteBound(body: object): void {
    const { id, domain_id: domain } = body as { id?: unknown; domain_id?: unknown };
    this.#bound.set(String(id), String(domain ?? id));
  }

  async #readAll(phase: string): Promise<void> {
    await dropCaches();
    await this.#site.expectTree(this.target).catch((error: unknown) => {
      throw new Error(`after ${phase}:\n${this.daemon.output}`, { cause: error });
    });
  }
}

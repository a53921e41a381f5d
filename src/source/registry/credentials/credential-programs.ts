// SPDX-License-Identifier: Apache-2.0
// Docker's credential programs (`docker-credential-NAME get`, the host on stdin, JSON on stdout).
// What one answers is remembered for a while, and asked for again when the registry refuses it.
// A host is asked for once however many wait; few programs run at a time.

import { LRUCache } from "lru-cache";
import * as z from "zod";
import type { Clock } from "../../../platform/clock.ts";
import type { RegistryLog } from "../options.ts";
import type { Wanted } from "./credential-source.ts";
import { type Credentials, Grant, credentialsProblem } from "./grant.ts";
import { serverName } from "./host-keys.ts";
import { findProgram, ownMountPoints } from "./program-path.ts";
import { runProgram } from "./run-program.ts";

const ANSWERS_MAX = 256;
const RUNNING_MAX = 4;
const FOUND_KEPT_MS = 5 * 60_000;
const NOTHING_KEPT_MS = 60_000;
const FAILURE_KEPT_MS = 10_000;
/** A refused answer is not asked for again sooner. */
const RENEW_MIN_MS = 5_000;
/** What the programs say, by docker's own library, when they have nothing for a host. */
const NOTHING = "credentials not found in native keychain";

const answerSchema = z.object({ Username: z.string().default(""), Secret: z.string() });

interface Answer {
  readonly grant: Grant | undefined;
  readonly askedMs: number;
  readonly keptMs: number;
}

export interface CredentialProgramsParts {
  readonly clock: Clock;
  readonly log: RegistryLog | undefined;
  /** The environment of the programs; PATH says where they are looked for. */
  readonly environment: Readonly<Record<string, string | undefined>>;
}

export class CredentialPrograms {
  readonly #parts: CredentialProgramsParts;
  readonly #answers = new LRUCache<string, Answer>({ max: ANSWERS_MAX });
  readonly #underWay = new Map<string, Promise<Grant | undefined>>();
  readonly #warned = new LRUCache<string, string>({ max: ANSWERS_MAX });
  #running = 0;
  #waiting: (() => void)[] = [];

  constructor(parts: CredentialProgramsParts) {
    this.#parts = parts;
  }

  /** Never rejects. */
  get(name: string, wanted: Wanted): Promise<Grant | undefined> {
    const key = `${name} ${wanted.host}`;
    const known = this.#answers.get(key);
    if (known !== undefined && !this.#isStale(known, wanted)) return Promise.resolve(known.grant);
    const underWay = this.#underWay.get(key);
    if (underWay !== undefined) return underWay;
    const asking = this.#ask(name, wanted, key).finally(() => {
      this.#underWay.delete(key);
    });
    this.#underWay.set(key, asking);
    return asking;
  }

  #isStale({ grant, askedMs, keptMs }: Answer, { refused }: Wanted): boolean {
    const ageMs = this.#parts.clock.nowMs() - askedMs;
    const isRefused = grant !== undefined && grant.isSame(refused);
    return ageMs >= (isRefused ? Math.min(RENEW_MIN_MS, keptMs) : keptMs);
  }

  async #ask(name: string, wanted: Wanted, key: string): Promise<Grant | undefined> {
    await this.#begin();
    const { clock, log } = this.#parts;
    try {
      const grant = await this.#run(`docker-credential-${name}`, wanted);
      const keptMs = grant === undefined ? NOTHING_KEPT_MS : FOUND_KEPT_MS;
      this.#answers.set(key, { grant, askedMs: clock.nowMs(), keptMs });
      this.#warned.delete(key);
      return grant;
    } catch (error) {
      // Our own errors alone come here: none has a word of what a program printed.
      const reason = error instanceof Error ? error.message : String(error);
      if (this.#warned.get(key) !== reason && !wanted.signal.aborted) {
        log?.warn({ host: wanted.host }, `credentials: docker-credential-${name}: ${reason}`);
      }
      this.#warned.set(key, reason);
      const keptMs = FAILURE_KEPT_MS;
      this.#answers.set(key, { grant: undefined, askedMs: clock.nowMs(), keptMs });
      return undefined;
    } finally {
      this.#end();
    }
  }

  async #run(program: string, wanted: Wanted): Promise<Grant | undefined> {
    const { clock, environment } = this.#parts;
    const path = await findProgram(program, environment["PATH"] ?? "", ownMountPoints);
    const input = serverName(wanted.host);
    const { signal } = wanted;
    const { status, output } = await runProgram({ path, input, environment, clock, signal });
    if (status !== 0) {
      if (output.trim() === NOTHING) return undefined;
      throw new Error(`it ends with status ${status}`);
    }
    return parseAnswer(output);
  }

  /** Waiting are at most as many as there are hosts. */
  async #begin(): Promise<void> {
    if (this.#running >= RUNNING_MAX) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    this.#running += 1;
  }

  #end(): void {
    this.#running -= 1;
    this.#waiting.shift()?.();
  }
}

function parseAnswer(output: string): Grant | undefined {
  let json: unknown;
  try {
    json = JSON.parse(output);
  } catch {
    throw new Error("it does not answer with JSON");
  }
  const parsed = answerSchema.safeParse(json);
  if (!parsed.success) throw new Error("it does not answer with Username and Secret");
  const { Username: username, Secret: password } = parsed.data;
  if (password === "") return undefined;
  const credentials: Credentials = { username, password };
  const problem = credentialsProblem(credentials);
  if (problem !== undefined) throw new Error(`its answer: ${problem}`);
  return new Grant(credentials);
}

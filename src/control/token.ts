// SPDX-License-Identifier: Apache-2.0
// The token that whoever asks over TCP must have: a file that its owner alone may read. It is read
// again after a second, so that another one counts without a restart.

import { createHash, timingSafeEqual } from "node:crypto";
import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { DaemonError, asDaemonError } from "../errors.ts";
import type { Clock } from "../platform/clock.ts";
import type { Log } from "../platform/log.ts";
import { Secret } from "../platform/secret.ts";
import { errnoName } from "./socket-place.ts";

const KEPT_MS = 1000;
const OTHERS = 0o077;
const BYTES_MAX = 4096;

/** What the file holds, without its last line's end. Fault: config_invalid, which quotes none of it. */
export async function readToken(path: string): Promise<Secret> {
  const unfit = (detail: string): DaemonError => {
    return new DaemonError({ code: "config_invalid", where: `token file ${path}`, detail });
  };
  // Of a FIFO, too, an answer comes at once.
  const flags = constants.O_RDONLY | constants.O_NONBLOCK;
  const file = await open(path, flags).catch((error: unknown) => {
    throw unfit(`it cannot be read: ${errnoName(error)}`);
  });
  try {
    const found = await file.stat();
    const { mode, uid, size } = found;
    if (!found.isFile()) throw unfit("it is no file");
    if (uid !== 0 && uid !== process.geteuid?.()) throw unfit(`it belongs to user ${uid}`);
    if ((mode & OTHERS) !== 0) {
      const now = (mode & 0o7777).toString(8);
      throw unfit(`it may be read by others (mode ${now}): chmod 600`);
    }
    if (size > BYTES_MAX) throw unfit(`it is longer than ${BYTES_MAX} bytes`);
    const text = (await file.readFile("latin1")).replace(/\r?\n$/, "");
    if (/^[\x21-\x7e]{16,}$/.test(text)) return new Secret(text);
    throw unfit("it holds no token: 16 or more visible ASCII characters on one line");
  } finally {
    await file.close();
  }
}

export class TokenCheck {
  readonly #parts: { readonly path: string; readonly clock: Clock; readonly log: Log };
  #kept: { readonly token: Secret; readonly sinceMs: number } | undefined;

  constructor(parts: { readonly path: string; readonly clock: Clock; readonly log: Log }) {
    this.#parts = parts;
  }

  /** Reads the file. Fault: config_invalid. */
  async load(): Promise<Secret> {
    const { path, clock } = this.#parts;
    const nowMs = clock.nowMs();
    if (this.#kept !== undefined && nowMs - this.#kept.sinceMs < KEPT_MS) return this.#kept.token;
    const token = await readToken(path);
    this.#kept = { token, sinceMs: nowMs };
    return token;
  }

  /** Of an Authorization header. Fault: token_refused, also while the file is unfit. */
  async check(authorization: string | undefined): Promise<void> {
    const [, given] = /^Bearer +(\S+)$/i.exec(authorization ?? "") ?? [];
    if (given === undefined) {
      throw new DaemonError({ code: "token_refused", detail: "there is no Bearer token" });
    }
    const token = await this.load().catch((error: unknown) => {
      this.#parts.log.warn({}, `nobody gets in over TCP: ${asDaemonError(error).message}`);
      throw new DaemonError({ code: "token_refused", detail: "the daemon's own cannot be read" });
    });
    if (isSame(given, token.reveal())) return;
    throw new DaemonError({ code: "token_refused", detail: "it is another one" });
  }
}

/** In the same time whatever they have in common. */
function isSame(a: string, b: string): boolean {
  const [one, other] = [a, b].map((text) => createHash("sha256").update(text).digest());
  return one !== undefined && other !== undefined && timingSafeEqual(one, other);
}

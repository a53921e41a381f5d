// SPDX-License-Identifier: Apache-2.0
// Where log lines go: stderr, or a file that is set aside when it has grown. Nothing here may
// stop the daemon: the snapshotter that stderr belongs to may be gone, a pipe may be full, a disk
// too. What cannot be written is dropped, and how much is said when it works again.

import { close, mkdirSync, openSync, renameSync, write } from "node:fs";
import { dirname } from "node:path";

const STDERR = 2;
const WAITING_BYTES_MAX = 1024 * 1024;
/** Files kept besides the current one: name.1 is the youngest. */
const KEPT = 3;
const AGAIN_MS = 50;

export interface LineSink {
  write(line: string): void;
  /** Waits until all is written, but not for long. */
  drain(timeoutMs: number): Promise<void>;
}

export interface FileOptions {
  readonly path: string;
  /** 0: never. */
  readonly rotateBytes: number;
}

/** Lines to stderr, or to a file (whose directory is made). Throws when the file cannot be opened. */
export function openLineSink(file: FileOptions | undefined): LineSink {
  return new Lines(file === undefined ? { fd: STDERR } : openFile(file));
}

interface Target {
  fd: number;
  readonly bytes?: number;
  /** Called between two writes. */
  readonly rotate?: (writtenBytes: number) => number | undefined;
}

function openFile({ path, rotateBytes }: FileOptions): Target {
  mkdirSync(dirname(path), { recursive: true });
  const open = () => openSync(path, "a", 0o640);
  let fd = open();
  return {
    fd,
    rotate(writtenBytes) {
      if (rotateBytes === 0 || writtenBytes < rotateBytes) return undefined;
      for (let at = KEPT - 1; at >= 0; at -= 1) {
        const from = at === 0 ? path : `${path}.${at}`;
        try {
          renameSync(from, `${path}.${at + 1}`);
        } catch {
          // there are fewer files yet
        }
      }
      close(fd, () => undefined);
      fd = open();
      return fd;
    },
  };
}

class Lines implements LineSink {
  readonly #target: Target;
  #waiting: string[] = [];
  #waitingBytes = 0;
  #writtenBytes = 0;
  #dropped = 0;
  #isWriting = false;
  #onIdle: (() => void)[] = [];

  constructor(target: Target) {
    this.#target = target;
  }

  write(line: string): void {
    if (this.#waitingBytes + line.length > WAITING_BYTES_MAX) {
      this.#dropped += 1;
      return;
    }
    this.#waiting.push(line);
    this.#waitingBytes += line.length;
    if (!this.#isWriting) this.#next();
  }

  drain(timeoutMs: number): Promise<void> {
    if (!this.#isWriting) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.#onIdle.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  #next(): void {
    if (this.#waiting.length === 0) {
      this.#isWriting = false;
      for (const tell of this.#onIdle.splice(0)) tell();
      return;
    }
    this.#isWriting = true;
    const bytes = Buffer.from(this.#waiting.join(""));
    this.#waiting = [];
    this.#waitingBytes = 0;
    if (this.#dropped > 0)
      this.#waiting.push(`{"level":40,"msg":"log lines dropped","lines":${this.#dropped}}\n`);
    this.#dropped = 0;
    this.#writeAll(bytes);
  }

  #writeAll(bytes: Buffer): void {
    write(this.#target.fd, bytes, (error, written) => {
      if (error?.code === "EAGAIN") {
        setTimeout(() => {
          this.#writeAll(bytes);
        }, AGAIN_MS).unref();
        return;
      }
      this.#writtenBytes += written;
      if (error === null && written < bytes.length) {
        this.#writeAll(bytes.subarray(written));
        return;
      }
      // Any other error (EPIPE, ENOSPC): these lines are lost, the next may not be.
      this.#rotate();
      this.#next();
    });
  }

  #rotate(): void {
    try {
      const fd = this.#target.rotate?.(this.#writtenBytes);
      if (fd === undefined) return;
      this.#target.fd = fd;
      this.#writtenBytes = 0;
    } catch {
      // The file stays open under whatever name it has; the next lines try again.
    }
  }
}

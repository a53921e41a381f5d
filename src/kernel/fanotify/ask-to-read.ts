// SPDX-License-Identifier: Apache-2.0
// One READ of a file of ours: of somebody who waits for it, or of our own.

import type { DaemonError } from "../../errors.ts";
import type { Log } from "../../platform/log.ts";
import type { Extent } from "../../units.ts";
import { PendingRequest } from "../pending-request.ts";
import type { KernelHandler } from "../transport.ts";
import type { FileObject } from "./file-object.ts";

export interface Asking {
  readonly handler: KernelHandler;
  readonly log: Log;
}

export interface ReadAnswers {
  readonly label: string;
  readonly isOwn: boolean;
  readonly allow: () => void;
  readonly refuse: (error: DaemonError) => void;
}

/** One of `by` is called, once: also when the object goes away. `extent` is of whole blocks in it. */
export function askToRead(
  { handler, log }: Asking,
  object: FileObject,
  { extent, by }: { extent: Extent; by: ReadAnswers },
): void {
  const { label, isOwn, allow, refuse } = by;
  const pending = new PendingRequest(label, () => {
    object.accesses.delete(access);
  });
  const access = { pending, refuse };
  object.accesses.add(access);
  const { id } = pending;
  log.trace({ miss: id, kernel: label, ...extent }, "kernel READ");
  handler.read({
    id,
    object,
    extent,
    isOwn,
    get answered() {
      return pending.answered;
    },
    complete: () => {
      pending.answer(allow);
    },
    fail: (error) => {
      pending.answer(() => {
        refuse(error);
      });
    },
  });
}

/** Resolves when all of `extent` is in the object's file. Rejects as a read would fail. */
export function fillAll(asking: Asking, object: FileObject, extent: Extent): Promise<void> {
  return new Promise((resolve, reject) => {
    const label = `fill of "${object.cookieKey}"`;
    const by = { label, isOwn: true, allow: resolve, refuse: reject };
    askToRead(asking, object, { extent, by });
  });
}

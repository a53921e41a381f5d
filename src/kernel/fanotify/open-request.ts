// SPDX-License-Identifier: Apache-2.0
// An OPEN as the handler gets it, though at this door no kernel asks for one.

import type { DaemonError } from "../../errors.ts";
import { PendingRequest } from "../pending-request.ts";
import type { KernelHandler } from "../transport.ts";
import type { FileObject } from "./file-object.ts";
import type { KeyName } from "./names.ts";
import type { OpenEntry } from "./open-entry.ts";

/** Unanswered; `refuse` is its answer when the door goes away. */
export interface PendingOpen {
  readonly pending: PendingRequest;
  readonly refuse: (error: DaemonError) => void;
}

export interface Told {
  readonly resolve: (entry: OpenEntry) => void;
  readonly reject: (error: DaemonError) => void;
}

/** Rejects with what the handler refuses with; `accept` makes the object and tells the rest. */
export function requestOpen(
  { handler, opens }: { handler: KernelHandler; opens: Set<PendingOpen> },
  { volumeKey, cookieKey }: KeyName,
  accept: (sizeBytes: number, told: Told) => FileObject,
): Promise<OpenEntry> {
  return new Promise((resolve, reject) => {
    const pending = new PendingRequest(`OPEN of "${cookieKey}"`, () => {
      opens.delete(open);
    });
    const open = { pending, refuse: reject };
    opens.add(open);
    handler.open({
      volumeKey,
      cookieKey,
      get answered() {
        return pending.answered;
      },
      accept(sizeBytes) {
        let object: FileObject | undefined;
        pending.answer(() => {
          object = accept(sizeBytes, { resolve, reject });
        });
        return object;
      },
      refuse(error) {
        pending.answer(() => {
          reject(error);
        });
      },
    });
  });
}

// SPDX-License-Identifier: Apache-2.0
// What `erofsd doctor` has found.

import type { DoorKind } from "../config/config.ts";
import type { DaemonError } from "../errors.ts";

/** `bad`: something does not work for it. `note`: worth knowing. */
export type Verdict = "ok" | "note" | "bad";

export interface Finding {
  readonly what: string;
  readonly verdict: Verdict;
  readonly detail: string;
  /** What to do about it. */
  readonly fix?: string | undefined;
}

export interface DoorFinding {
  readonly door: DoorKind;
  readonly works: boolean;
  /** What it was tried with, or why it does not work. */
  readonly detail: string;
  readonly fix?: string | undefined;
  /** Kernel options that it needs and this kernel surely lacks; `undefined`: the kernel does not tell. */
  readonly missingOptions: readonly string[] | undefined;
  /** Why it does not work. */
  readonly fault?: DaemonError | undefined;
}

export interface Report {
  readonly kernel: string;
  readonly doors: readonly DoorFinding[];
  readonly findings: readonly Finding[];
  /** The door that `erofsd serve` would open, as it is configured. */
  readonly chosen: DoorKind | undefined;
  /** What `erofsd doctor` ends with; undefined: all that is configured works. */
  readonly fault: DaemonError | undefined;
}

// SPDX-License-Identifier: Apache-2.0
// Which images to serve after another daemon: what the supervisor was last told, or what the
// journal says. The journal is written at every change and the supervisor asked only afterwards,
// so of the two the journal knows more, unless another program (or another disk) came between.

import type { Recorded } from "./journal.ts";
import type { SavedState } from "./state-format.ts";

export interface Recollection {
  readonly images: readonly unknown[];
  readonly from: "state" | "journal" | "nothing";
  /** For the journal to go on from. */
  readonly serial: number;
  readonly adopted: string | undefined;
}

export function recollect(
  state: SavedState | undefined,
  journal: Recorded | undefined,
): Recollection {
  if (journal !== undefined && (state === undefined || isFollowed(state, journal))) {
    return { ...journal, from: "journal" };
  }
  if (state === undefined) return { images: [], from: "nothing", serial: 0, adopted: undefined };
  return { images: state.images, from: "state", serial: state.serial, adopted: state.foreign };
}

/** True when the journal has all that this state has, and perhaps more. */
function isFollowed(state: SavedState, journal: Recorded): boolean {
  if (state.foreign !== undefined) return journal.adopted === state.foreign;
  return journal.serial >= state.serial;
}

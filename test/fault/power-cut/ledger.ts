// SPDX-License-Identifier: Apache-2.0
// What the two sides of a power cut tell each other: the guest prints lines, the host keeps the last
// whole ledger for the next guest.

import * as z from "zod";

export const LEDGER_FILE = "ledger.json";
/** Before a ledger's JSON on a line of its own: all of it was on disk when the line was printed. */
export const SYNCED = "synced ";
/** Before what a check found, for people. */
export const FOUND = "found ";

const extent = z.strictObject({ offset: z.int(), length: z.int() });

export const ledger = z.strictObject({
  cuts: z.int(),
  /** By path within the cache directory: the extents that held data. */
  files: z.record(z.string(), z.array(extent)),
});
export type Ledger = z.infer<typeof ledger>;

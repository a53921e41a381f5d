// SPDX-License-Identifier: Apache-2.0
// The link as a process of its own, so that its CPU time is not the daemon's. Does what the
// process that forked it says (link.ts), and ends with it.
//   process.js TARGET

import { setPriority } from "node:os";
import { seededRandom } from "../../support/seeded-random.ts";
import { UNSHAPED, linkRequest } from "./link.ts";
import { LinkProxy } from "./proxy.ts";

const PRIORITY = -15;

try {
  // A wire is as fast as ever on a busy machine.
  setPriority(PRIORITY);
} catch {
  // Not root: it has to share.
}
const [, , target = ""] = process.argv;
const link = new LinkProxy(target, UNSHAPED, seededRandom(1));

process.on("message", (message) => {
  const { shape } = linkRequest.parse(message);
  if (shape !== undefined) link.shape = shape;
  const { user, system } = process.cpuUsage();
  process.send?.({ ...link.stats, cpuMs: (user + system) / 1000 });
});
process.on("disconnect", () => {
  process.exit(0);
});
process.send?.({ address: await link.listen() });

// SPDX-License-Identifier: Apache-2.0
// The link as a process of its own, so that its CPU time is not the daemon's. Does what the
// process that forked it says (link.ts), and ends with it.
//   process.js TARGET

import { seededRandom } from "../../support/seeded-random.ts";
import { UNSHAPED, linkRequest } from "./link.ts";
import { LinkProxy } from "./proxy.ts";

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

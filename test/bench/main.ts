// SPDX-License-Identifier: Apache-2.0
// `scripts/bench`: runs the parts it is told to, prints what they measure and writes it as JSON.
// A goal that is missed is told, and fails the command only with --strict.

import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { benchApi } from "./api.ts";
import { benchDragonfly } from "./dragonfly/main.ts";
import { benchFanotify } from "./fanotify/main.ts";
import { benchHost } from "./host/main.ts";
import { benchPeers } from "./peers/main.ts";
import { benchGuest, benchMaps, benchStart } from "./programs.ts";
import { Report } from "./report.ts";
import { recordTrace } from "./trace/record.ts";

const PARTS = "host, fanotify, api, start, maps, guest, dragonfly, peers, record";
const USAGE = `scripts/bench [PART...] [--only WORKLOAD] [--json FILE] [--strict] [--kernel NAME]
parts: ${PARTS}; host when none is named`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    help: { type: "boolean", default: false },
    json: { type: "string", default: join(tmpdir(), `erofsd-bench-${process.pid}.json`) },
    kernel: { type: "string", default: "uml-6.12" },
    /** Workloads of the host or beside peers, all when none is named. */
    only: { type: "string", multiple: true, default: [] },
    strict: { type: "boolean", default: false },
  },
});
const home = join(process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "erofsd", "bench");

async function run(report: Report, part: string): Promise<void> {
  switch (part) {
    case "host":
      return await benchHost(report, home, values.only);
    case "fanotify":
      return await benchFanotify(report, home, values.only);
    case "api":
      return await benchApi(report, home);
    case "start":
      return await benchStart(report);
    case "maps":
      return await benchMaps(report);
    case "guest":
      return await benchGuest(report, values.kernel);
    case "dragonfly":
      return await benchDragonfly(report, home);
    case "peers":
      return await benchPeers(report, home, values);
    case "record":
      return await recordTrace(report, home, values.kernel);
    default:
      throw new Error(`no part "${part}": there are ${PARTS}`);
  }
}

if (values.help) {
  console.log(USAGE);
} else {
  const report = new Report();
  for (const part of positionals.length === 0 ? ["host"] : positionals) await run(report, part);
  await report.write(values.json);
  console.log(`\nwritten: ${values.json}`);
  if (report.missed > 0) console.log(`${report.missed} goals missed`);
  process.exitCode = values.strict && report.missed > 0 ? 1 : 0;
}

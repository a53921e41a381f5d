// SPDX-License-Identifier: Apache-2.0
// The words of `erofsd prefetch`.

import type { Argv } from "yargs";
import { DaemonError } from "../errors.ts";
import { jsonOption, socketOptions, socketPath } from "./socket-options.ts";

const REFERENCE = "host[:port]/repo[:tag][@digest], or oci:PATH[:tag]";
const FSID = "the key it will be mounted by, where that is not what `erofsd mount` takes";
const PATHS = "this file, or all below this directory; may be repeated";
const GLOB = "files that match, as in /usr/lib/**/*.so; quote it; may be repeated";
const TRACE = "what this trace has read, in its order";
const LIMIT = "bytes a second, such as 10MB or 512KiB; 0: no limit";
const PRIORITY = "low, normal, high, or a number from -100 to 100";
const CANCEL = "on Ctrl-C end the prefetch too";
const FLIGHTS_MAX = 8;
const PRIORITIES: ReadonlyMap<string, number> = new Map([
  ["low", -10],
  ["normal", 0],
  ["high", 10],
]);

/** Adds them to `parser`. */
export function addPrefetchCommands(parser: Argv): Argv {
  return parser.command(
    "prefetch",
    "fill images before anybody reads them; they need not be mounted",
    (y) => addChanges(addStart(y)).demandCommand(1, "which image, or which command of prefetch?"),
    () => undefined,
  );
}

function addStart(y: Argv): Argv {
  return y.command(
    ["start <reference>", "$0 <reference>"],
    "start one, or join the same, and show how it gets on",
    startOptions,
    async (given) => {
      const { prefetchCommand } = await import("./prefetch-command.ts");
      const { reference, json, fsid, trace, detach, cancelOnInterrupt } = given;
      const { paths = [], glob = [], all } = given;
      if (all && (trace !== undefined || paths.length + glob.length > 0)) {
        throw new DaemonError({ code: "usage_invalid", detail: "--all, and some files" });
      }
      await prefetchCommand({
        socketPath: await socketPath(given),
        json,
        reference,
        fsid,
        paths,
        globs: glob,
        trace,
        change: changeOf(given),
        wait: !detach,
        cancelOnInterrupt,
      });
    },
  );
}

function addChanges(y: Argv): Argv {
  return y
    .command(
      "ls",
      "what is being prefetched, and what was",
      (z) => jsonOption(socketOptions(z)),
      async (given) => {
        const { listPrefetches } = await import("./prefetch-command.ts");
        await listPrefetches({ json: given.json, socketPath: await socketPath(given) });
      },
    )
    .command(
      "cancel <id>",
      "end one, or forget one that has ended; what is cached stays",
      idOptions,
      async (given) => {
        const { cancelPrefetch } = await import("./prefetch-command.ts");
        await cancelPrefetch({ ...given, socketPath: await socketPath(given) });
      },
    )
    .command(
      "set <id>",
      "change one that is under way",
      (z) => changeOptions(idOptions(z)),
      async (given) => {
        const { changePrefetch } = await import("./prefetch-command.ts");
        const { json, id } = given;
        const change = changeOf(given);
        await changePrefetch({ json, id, change, socketPath: await socketPath(given) });
      },
    );
}

function idOptions(y: Argv) {
  return jsonOption(socketOptions(y)).positional("id", { type: "string", demandOption: true });
}

function startOptions(y: Argv) {
  return changeOptions(jsonOption(socketOptions(y)))
    .positional("reference", { type: "string", demandOption: true, describe: REFERENCE })
    .option("all", { type: "boolean", default: false, describe: "the whole image (the default)" })
    .option("paths", { type: "string", array: true, nargs: 1, describe: PATHS })
    .option("glob", { type: "string", array: true, nargs: 1, describe: GLOB })
    .option("trace", { type: "string", requiresArg: true, describe: TRACE })
    .conflicts("trace", ["paths", "glob"])
    .option("fsid", { type: "string", requiresArg: true, describe: FSID })
    .option("wait", {
      type: "boolean",
      default: true,
      describe: "until it has ended (the default)",
    })
    .option("detach", { type: "boolean", default: false, describe: "do not wait" })
    .option("cancel-on-interrupt", { type: "boolean", default: false, describe: CANCEL });
}

function changeOptions<T>(y: Argv<T>) {
  return y
    .option("limit-rate", { type: "string", requiresArg: true, describe: LIMIT })
    .option("priority", { type: "string", requiresArg: true, describe: PRIORITY })
    .option("flights", {
      type: "number",
      requiresArg: true,
      describe: `fetches in the air at once while nobody reads, 1 to ${FLIGHTS_MAX}`,
    });
}

function changeOf(given: {
  readonly limitRate: string | undefined;
  readonly priority: string | undefined;
  readonly flights: number | undefined;
}) {
  const { limitRate, priority, flights } = given;
  return {
    ...(limitRate === undefined ? {} : { bandwidthLimit: bytesOf("--limit-rate", limitRate) }),
    ...(priority === undefined ? {} : { priority: priorityOf(priority) }),
    ...(flights === undefined ? {} : { flightsMax: flightsOf(flights) }),
  };
}

function flightsOf(flights: number): number {
  if (Number.isInteger(flights) && flights >= 1 && flights <= FLIGHTS_MAX) return flights;
  throw new DaemonError({ code: "usage_invalid", detail: `--flights: 1 to ${FLIGHTS_MAX}` });
}

function priorityOf(text: string): number {
  const value = PRIORITIES.get(text) ?? (/^-?\d+$/.test(text) ? Number(text) : undefined);
  if (value !== undefined) return value;
  throw new DaemonError({ code: "usage_invalid", detail: `--priority ${text}: ${PRIORITY}` });
}

const RATE_UNITS: ReadonlyMap<string, number> = new Map([
  ["", 1],
  ["B", 1],
  ["KB", 1e3],
  ["MB", 1e6],
  ["GB", 1e9],
  ["KiB", 2 ** 10],
  ["MiB", 2 ** 20],
  ["GiB", 2 ** 30],
]);

/** Of a rate, a second. Fault: usage_invalid, naming the option. */
export function bytesOf(option: string, text: string): number {
  const [, digits, unit = ""] = /^(\d+(?:\.\d+)?)\s*([KMG]i?B|B|)(?:\/s)?$/.exec(text) ?? [];
  const factor = RATE_UNITS.get(unit);
  if (digits !== undefined && factor !== undefined) return Math.round(Number(digits) * factor);
  throw new DaemonError({
    code: "usage_invalid",
    detail: `${option} ${text}: write 10MB or 512KiB`,
  });
}

// SPDX-License-Identifier: Apache-2.0
// The words of the commands about what is read: trace and report.

import type { Argv } from "yargs";
import { jsonOption, socketOptions, socketPath } from "./socket-options.ts";

const MOUNT =
  "a mount point, or an image as `erofsd images` lists it; all that is read if not given";
const KEY = "only what is mounted under this key, or has this digest; may be repeated";
const FROM = "a file, or the reference of an image that a trace was pushed for";
const IMAGE = "host[:port]/repo[:tag][@digest] of the image that it was recorded of";
const CONFIG = "how registries are reached, and with what credentials";

export function addTraceCommands(parser: Argv): Argv {
  return parser
    .command("trace", "what a container reads when it starts", traceCommands, () => undefined)
    .command(
      "report <mount>",
      "a page (HTML) about how an image was read since it was mounted",
      (y) =>
        socketOptions(y)
          .positional("mount", { type: "string", demandOption: true, describe: MOUNTED })
          .option("output", {
            alias: "o",
            type: "string",
            requiresArg: true,
            describe: "where to; stdout when not given",
          }),
      async (given) => {
        const { reportCommand } = await import("./report-command.ts");
        const { mount, output } = given;
        await reportCommand({ mount, output, socketPath: await socketPath(given) });
      },
    );
}

const MOUNTED = "a mount point, or an image as `erofsd images` lists it";

function traceCommands(y: Argv) {
  return y
    .demandCommand(1, "which command of trace?")
    .command(
      "record [mount]",
      "record it, until the time is up or Ctrl-C",
      recordOptions,
      async (given) => {
        const { recordTrace } = await import("./trace-command.ts");
        const { mount, output, seconds, key: keys = [] } = given;
        await recordTrace({ socketPath: await socketPath(given), mount, output, seconds, keys });
      },
    )
    .command(
      "show <from>",
      "list the files in it, in the order they are read",
      (s) =>
        jsonOption(configOption(s)).positional("from", {
          type: "string",
          demandOption: true,
          describe: FROM,
        }),
      async ({ from, json, config }) => {
        const { showTrace } = await import("./trace-store-commands.ts");
        await showTrace({ from, json, config });
      },
    )
    .command(
      "push <file> <reference>",
      "store it beside its image, for whoever mounts that",
      (p) =>
        jsonOption(referenceOption(configOption(p))).positional("file", {
          type: "string",
          demandOption: true,
        }),
      async ({ file, reference, json, config }) => {
        const { pushTrace } = await import("./trace-store-commands.ts");
        await pushTrace({ file, reference, json, config });
      },
    )
    .command(
      "pull <reference>",
      "get what was pushed",
      (p) =>
        referenceOption(configOption(p)).option("output", {
          alias: "o",
          type: "string",
          requiresArg: true,
          describe: "where to; stdout when not given",
        }),
      async ({ reference, output, config }) => {
        const { pullTrace } = await import("./trace-store-commands.ts");
        await pullTrace({ reference, output, config });
      },
    );
}

function configOption<T>(y: Argv<T>) {
  return y.option("config", { type: "string", requiresArg: true, describe: CONFIG });
}

function referenceOption<T>(y: Argv<T>) {
  return y.positional("reference", { type: "string", demandOption: true, describe: IMAGE });
}

function recordOptions(y: Argv) {
  return socketOptions(y)
    .positional("mount", { type: "string", describe: MOUNT })
    .option("output", {
      alias: "o",
      type: "string",
      requiresArg: true,
      describe: "where to; stdout when not given",
    })
    .option("seconds", { type: "number", requiresArg: true, describe: "end by itself" })
    .option("key", { type: "string", array: true, requiresArg: true, describe: KEY })
    .conflicts("mount", "key");
}

// SPDX-License-Identifier: Apache-2.0
// The words of the commands that only look: ps, images, inspect, events, config, version.

import type { Argv } from "yargs";
import { LIVE_KEYS } from "../config/live-config.ts";
import { imageName, jsonOption, socketOptions, socketPath } from "./socket-options.ts";

const LIVE_KEY = LIVE_KEYS.join(", ");
const CHECKED_FILE = "the file to check; default: the daemon's";
const SHOWN_FILE = "show what this file would configure, without the daemon";

const INTERVAL = "--interval is 0.1 to 3600 seconds";
const HITS = `HITS is of the reads that the daemon was asked for: those that found all of it cached,
or on its way. What the kernel reads from its cache without asking is in no count: through
cachefiles all such reads, through fanotify those of streams that are wholly cached.`;

/** Adds them to `parser`. */
export function addViewCommands(parser: Argv): Argv {
  return addOwnCommands(addImageViews(parser));
}

function addImageViews(parser: Argv): Argv {
  return addImages(addInspect(parser, "inspect <name>"), "images")
    .command(
      "image",
      "images that the daemon knows, one or all",
      (y) =>
        addImages(addInspect(y, "inspect <name>"), "ls").demandCommand(
          1,
          "which command of image?",
        ),
      () => undefined,
    )
    .command(
      "ps",
      "what is mounted here",
      (y) => jsonOption(socketOptions(y)),
      async (given) => {
        const { psCommand } = await import("./image-commands.ts");
        await psCommand({ json: given.json, socketPath: await socketPath(given) });
      },
    )
    .command(
      "top",
      "what readers wait for, while it happens, until Ctrl-C",
      topOptions,
      async (given) => {
        const { topCommand } = await import("./top-command.ts");
        const { json, once, interval: intervalSeconds } = given;
        await topCommand({ json, once, intervalSeconds, socketPath: await socketPath(given) });
      },
    )
    .command(
      "events",
      "what happens, until Ctrl-C",
      (y) => jsonOption(socketOptions(y)),
      async (given) => {
        const { eventsCommand } = await import("./events-command.ts");
        await eventsCommand({ json: given.json, socketPath: await socketPath(given) });
      },
    );
}

function addImages(parser: Argv, words: string): Argv {
  return parser.command(
    words,
    "images that the daemon knows",
    (y) => jsonOption(socketOptions(y)),
    async (given) => {
      const { imagesCommand } = await import("./image-commands.ts");
      await imagesCommand({ json: given.json, socketPath: await socketPath(given) });
    },
  );
}

function addInspect(parser: Argv, words: string): Argv {
  return parser.command(
    words,
    "all that is known of an image",
    (y) => imageName(jsonOption(socketOptions(y))),
    async (given) => {
      const { inspectCommand } = await import("./image-commands.ts");
      const { name, json } = given;
      await inspectCommand({ name, json, socketPath: await socketPath(given) });
    },
  );
}

function addOwnCommands(parser: Argv): Argv {
  return parser
    .command(
      "config",
      "the configuration",
      (y) =>
        addConfigSet(y)
          .demandCommand(1, "which command of config?")
          .command("check [file]", "say what is wrong with a file", checkOptions, async (given) => {
            const { configCheckCommand } = await import("./config-command.ts");
            await configCheckCommand({ file: given.file, json: given.json });
          })
          .command(
            "show [file]",
            "show it, with defaults, without secrets",
            showOptions,
            async (given) => {
              const { configShowCommand } = await import("./config-command.ts");
              const { file, json } = given;
              await configShowCommand({ file, json, socketPath: () => socketPath(given) });
            },
          ),
      () => undefined,
    )
    .command(
      "doctor",
      "what this machine can do, what is missing, and how to get it",
      (y) =>
        jsonOption(socketOptions(y)).epilogue(
          "Exit status: 0 what is configured works here, 2 the configuration is wrong,\n3 this machine lacks something. Run it as root; it leaves nothing behind.",
        ),
      async (given) => {
        const { doctorCommand } = await import("./doctor-command.ts");
        const { json, config, socket } = given;
        const path = socket === undefined ? undefined : await socketPath(given);
        await doctorCommand({ json, configPath: config, socketPath: path });
      },
    )
    .command(
      "version",
      "this program's version, and the daemon's",
      (y) => jsonOption(socketOptions(y)),
      async (given) => {
        const { versionCommand } = await import("./version-command.ts");
        await versionCommand({ json: given.json, socketPath: await socketPath(given) });
      },
    );
}

function topOptions(y: Argv) {
  return jsonOption(socketOptions(y))
    .option("once", { type: "boolean", default: false, describe: "one picture, then the end" })
    .option("interval", {
      type: "number",
      default: 1,
      requiresArg: true,
      describe: "seconds between two pictures, 0.1 to 3600",
    })
    .check(({ interval }) => (interval >= 0.1 && interval <= 3600 ? true : INTERVAL))
    .epilogue(HITS);
}

function checkOptions(y: Argv) {
  return jsonOption(y).positional("file", { type: "string", describe: CHECKED_FILE });
}

function addConfigSet(y: Argv): Argv {
  return y.command(
    "set <key> <value>",
    "change the running daemon's, until it stops",
    setOptions,
    async (given) => {
      const { setConfig } = await import("./cache-command.ts");
      const { key, value, json } = given;
      await setConfig({ key, value, json, socketPath: await socketPath(given) });
    },
  );
}

function setOptions(y: Argv) {
  return jsonOption(socketOptions(y))
    .positional("key", { type: "string", demandOption: true, describe: LIVE_KEY })
    .positional("value", { type: "string", demandOption: true });
}

function showOptions(y: Argv) {
  return jsonOption(socketOptions(y)).positional("file", { type: "string", describe: SHOWN_FILE });
}

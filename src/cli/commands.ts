// SPDX-License-Identifier: Apache-2.0
// The commands and their help. Each is thin: it asks the daemon, and for mounts the kernel.

import yargs, { type Argv } from "yargs";
import { DEFAULT_CONFIG_PATH, DOOR_WISHES } from "../config/config.ts";
import { ask } from "../control/client.ts";
import { statusAnswer } from "../control/schema.ts";
import { DaemonError, invariant } from "../errors.ts";
import { packageVersion } from "../platform/package-root.ts";
import { addCacheCommands } from "./cache-words.ts";
import { SHELLS, commandWords } from "./completion-words.ts";
import { addPrefetchCommands } from "./prefetch-words.ts";
import { jsonOption, socketOptions, socketPath } from "./socket-options.ts";
import { recordCommands } from "./recorded-commands.ts";
import { addTraceCommands } from "./trace-commands.ts";
import { unknownCommand } from "./unknown-command.ts";
import { addViewCommands } from "./view-commands.ts";

/** What a command's exit status says; ERROR_POLICY has which fault ends with which. */
export const EXIT_STATUSES: readonly (readonly [status: number, meaning: string])[] = [
  [0, "done"],
  [1, "a bug"],
  [2, "wrong usage or configuration"],
  [3, "this machine lacks something"],
  [4, "the registry"],
  [5, "the image"],
  [6, "the daemon"],
];
const EPILOGUE = `Exit status: ${EXIT_STATUSES.map((each) => each.join(" ")).join(", ")}.
Errors are a line on stderr, and a hint. Colours only on a terminal, none with NO_COLOR.`;

/** What it is, in a line. */
export const PURPOSE = "Mounts container images before their data has arrived.";

const CONFIG_FILE = `configuration file (default ${DEFAULT_CONFIG_PATH}, if it exists)`;
const REFERENCE = "host[:port]/repo[:tag][@digest], or oci:PATH[:tag]";
const PREFIX = "for this repository and those below it, instead of the whole host";
const DOOR = "how the kernel gets it; full: all of it is fetched and verified before it is mounted";
const FILLS = ["on-demand", "background"] as const;
const FILL = "background: complete it while nobody needs the link (default: engine.fill)";
const CANCEL = "on Ctrl-C give the mount up too";
const GRACE = "seconds that readers wait for a daemon when there is none";
const LAZY = "detach it now, finish when its last user has left";

/** Runs one command line (without node and script) and returns its exit status. */
export async function runCommand(words: string[]): Promise<number> {
  let run: () => unknown = () => undefined;
  const choose = (chosen: () => unknown): void => {
    run = chosen;
  };
  const parser = addCommands(choosing(yargs(words), choose))
    .scriptName("erofsd")
    .usage(`$0 <command>\n\n${PURPOSE}`)
    .demandCommand(1, "which command?")
    .strict()
    .exitProcess(false)
    .version(await packageVersion())
    .alias("help", "h")
    .epilogue(EPILOGUE)
    .fail((message: string | null, error: unknown) => {
      // Its own complaints come as a message, some also as a YError.
      if (error instanceof Error && error.name !== "YError") throw error;
      const said = (message ?? "").trim().replaceAll(/\s*\n\s*/g, " ");
      const detail = unknownCommand(recordCommands(addCommands), words) ?? said;
      throw new DaemonError({ code: "usage_invalid", detail });
    });
  await parser.parseAsync();
  await run();
  return 0;
}

/**
 * `parser`, which hands the chosen command's handler over instead of running it: while it waits for
 * one, yargs makes up the whole help text, 20 ms of a mount.
 */
function choosing(parser: Argv, choose: (run: () => unknown) => void): Argv {
  const command: unknown = Reflect.get(parser, "command");
  invariant(isFunction(command), "a parser takes commands");
  Reflect.set(parser, "command", (...words: unknown[]): unknown => {
    const [name, summary, builder, handler, ...more] = words;
    if (!isFunction(handler)) return Reflect.apply(command, parser, words);
    const chosen = (argv: unknown): void => choose(() => handler(argv));
    return Reflect.apply(command, parser, [name, summary, builder, chosen, ...more]);
  });
  return parser;
}

function isFunction(word: unknown): word is (...words: unknown[]) => unknown {
  return typeof word === "function";
}

/** Adds every command with its help: to yargs, or to what records them. */
export function addCommands(parser: Argv): Argv {
  const looking = addPrefetchCommands(
    addCacheCommands(addViewCommands(addImageCommands(addDaemonCommands(parser)))),
  );
  return addCompletion(addTraceCommands(addCredentialCommands(looking)));
}

function addCompletion(parser: Argv): Argv {
  return parser.command(
    "completion <shell>",
    "print a completion script for a shell",
    (y) => y.positional("shell", { choices: SHELLS, demandOption: true }),
    async ({ shell }) => {
      const { completionScript } = await import("./completion.ts");
      process.stdout.write(completionScript(shell, commandWords(addCommands)));
    },
  );
}

function addDaemonCommands(parser: Argv): Argv {
  return parser
    .command(
      "serve",
      "run the daemon in the foreground",
      (y) => y.option("config", { type: "string", describe: CONFIG_FILE }),
      () => undefined,
    )
    .command(
      "supervise",
      "run the daemon and start it again when it dies; SIGHUP upgrades it",
      (y) =>
        y
          .option("config", { type: "string", describe: CONFIG_FILE })
          .option("grace", { type: "number", default: 30, requiresArg: true, describe: GRACE }),
      async (given) => {
        const { superviseCommand } = await import("./supervise-command.ts");
        const { config, grace } = given;
        await superviseCommand({ config, grace: seconds("--grace", grace) });
      },
    )
    .command(
      "upgrade",
      "let the program as it is on disk now take over from the running daemon",
      (y) => jsonOption(socketOptions(y)),
      async (given) => {
        const { upgradeCommand } = await import("./upgrade-command.ts");
        await upgradeCommand({ ...given, socketPath: await socketPath(given) });
      },
    );
}

function addImageCommands(parser: Argv): Argv {
  return parser
    .command(
      "mount <reference> <directory>",
      "mount an image",
      (y) =>
        jsonOption(socketOptions(y))
          .positional("reference", { type: "string", demandOption: true, describe: REFERENCE })
          .positional("directory", { type: "string", demandOption: true })
          .option("door", { choices: DOOR_WISHES, default: "auto" as const, describe: DOOR })
          .option("fill", { choices: FILLS, describe: FILL })
          .option("cancel-on-interrupt", { type: "boolean", default: false, describe: CANCEL }),
      async (given) => {
        const { mountCommand } = await import("./mount-command.ts");
        await mountCommand({ ...given, socketPath: await socketPath(given) });
      },
    )
    .command(
      "umount <directory>",
      "unmount an image",
      (y) =>
        jsonOption(socketOptions(y))
          .positional("directory", { type: "string", demandOption: true })
          .option("lazy", { type: "boolean", default: false, describe: LAZY }),
      async (given) => {
        const { umountCommand } = await import("./mount-command.ts");
        await umountCommand({ ...given, socketPath: await socketPath(given) });
      },
    )
    .command(
      "status",
      "what the daemon is doing",
      (y) => jsonOption(socketOptions(y)),
      async (given) => {
        const { printStatus } = await import("./status-command.ts");
        const path = await socketPath(given);
        const request = { method: "GET", path: "/v1/status", answer: statusAnswer } as const;
        printStatus(await ask(path, request), given);
      },
    );
}

function addCredentialCommands(parser: Argv): Argv {
  return parser
    .command(
      "login <host>",
      "give the running daemon credentials for a registry, kept in its memory alone",
      (y) =>
        credentialOptions(y)
          .option("username", { alias: "u", type: "string", requiresArg: true })
          .option("password-stdin", {
            type: "boolean",
            default: false,
            describe: "read the password from standard input",
          })
          .option("token-stdin", {
            type: "boolean",
            default: false,
            describe: "read a token from standard input, to be sent as it is",
          }),
      async (given) => {
        const { loginCommand } = await import("./login-command.ts");
        await loginCommand({ ...given, socketPath: await socketPath(given) });
      },
    )
    .command(
      "logout <host>",
      "make the running daemon forget what login gave it",
      (y) => credentialOptions(y),
      async (given) => {
        const { logoutCommand } = await import("./login-command.ts");
        await logoutCommand({ ...given, socketPath: await socketPath(given) });
      },
    );
}

function credentialOptions<T>(y: Argv<T>) {
  return jsonOption(socketOptions(y))
    .positional("host", { type: "string", demandOption: true, describe: "host[:port]" })
    .option("repository", { type: "string", requiresArg: true, describe: PREFIX });
}

function seconds(option: string, value: number): number {
  if (Number.isInteger(value) && value >= 0 && value <= 86_400) return value;
  throw new DaemonError({ code: "usage_invalid", detail: `${option}: 0 to 86400 seconds` });
}

// SPDX-License-Identifier: Apache-2.0
// The words that a shell completes: commands, their options, and what else they take.

export const SHELLS = ["bash", "zsh", "fish"] as const;
export type Shell = (typeof SHELLS)[number];

export interface OptionWord {
  readonly name: string;
  readonly summary: string;
  /** What follows it; absent: nothing does. */
  readonly takes?: "file" | "text";
}

export interface CommandWord {
  /** `mount`, or `trace record`. */
  readonly path: string;
  readonly summary: string;
  readonly options: readonly OptionWord[];
  /** What it takes beside options: paths, or one of these words. */
  readonly takes?: "file" | "directory" | readonly string[];
}

const HELP: OptionWord = { name: "--help", summary: "show help" };
const JSON_OPTION: OptionWord = { name: "--json", summary: "print JSON" };
const CONFIG: OptionWord = { name: "--config", summary: "configuration file", takes: "file" };
const ASKING = [{ name: "--socket", summary: "control socket", takes: "file" } as const, CONFIG];
const OUTPUT: OptionWord = { name: "--output", summary: "where to", takes: "file" };
const FILL = { name: "--fill", summary: "on-demand or background", takes: "text" } as const;
const REPOSITORY = {
  name: "--repository",
  summary: "for this one and below",
  takes: "text",
} as const;

const DOOR = { name: "--door", summary: "how the kernel gets it", takes: "text" } as const;
const CHANGING: readonly OptionWord[] = [
  { name: "--limit-rate", summary: "bytes a second", takes: "text" },
  { name: "--priority", summary: "low, normal, high or a number", takes: "text" },
  { name: "--flights", summary: "fetches at once", takes: "text" },
];
const PREFETCHING: readonly OptionWord[] = [
  ...CHANGING,
  { name: "--all", summary: "the whole image" },
  { name: "--paths", summary: "a file, or all below a directory", takes: "text" },
  { name: "--glob", summary: "files that match", takes: "text" },
  { name: "--trace", summary: "what a trace has read", takes: "file" },
  { name: "--fsid", summary: "the key it will be mounted by", takes: "text" },
  { name: "--wait", summary: "until it has ended" },
  { name: "--detach", summary: "do not wait" },
  { name: "--cancel-on-interrupt", summary: "on Ctrl-C end it too" },
];

/** Every command, those with commands of their own before these. */
export const COMMAND_WORDS: readonly CommandWord[] = [
  command("serve", "run the daemon in the foreground", [CONFIG]),
  command("supervise", "run the daemon, again when it dies", [
    CONFIG,
    { name: "--grace", summary: "how long readers wait for one", takes: "text" },
  ]),
  command("upgrade", "let a newer program take over", [JSON_OPTION, ...ASKING]),
  command("mount", "mount an image", [JSON_OPTION, ...ASKING, DOOR, FILL], "directory"),
  command(
    "umount",
    "unmount an image",
    [{ name: "--lazy", summary: "detach it now" }, JSON_OPTION, ...ASKING],
    "directory",
  ),
  command("status", "what the daemon is doing", [JSON_OPTION, ...ASKING]),
  command("ps", "what is mounted here", [JSON_OPTION, ...ASKING]),
  command("images", "images that the daemon knows", [JSON_OPTION, ...ASKING]),
  command("inspect", "all that is known of an image", [JSON_OPTION, ...ASKING]),
  command("top", "what readers wait for", [
    JSON_OPTION,
    ...ASKING,
    { name: "--once", summary: "one picture" },
    { name: "--interval", summary: "seconds between two", takes: "text" },
  ]),
  command("events", "what happens, until Ctrl-C", [JSON_OPTION, ...ASKING]),
  command("config", "the configuration", [], ["check", "show", "set"]),
  command("config check", "say what is wrong with a file", [JSON_OPTION], "file"),
  command("config show", "show it, without secrets", [JSON_OPTION, ...ASKING], "file"),
  command(
    "config set",
    "change the running daemon's",
    [JSON_OPTION, ...ASKING],
    ["log.level", "prefetch.bandwidth", "engine.window", "engine.window_max"],
  ),
  command("cache", "what is cached", [], ["usage", "prune"]),
  command("cache usage", "how much it takes", [JSON_OPTION, ...ASKING]),
  command("cache prune", "give up what is not in use", [
    JSON_OPTION,
    ...ASKING,
    { name: "--image", summary: "of this image", takes: "text" },
    { name: "--older-than", summary: "not used for so long", takes: "text" },
    { name: "--down-to", summary: "what may stay", takes: "text" },
    { name: "--all", summary: "all that is not in use" },
  ]),
  command("rmi", "forget an image", [JSON_OPTION, ...ASKING]),
  command("doctor", "what this machine can do", [JSON_OPTION, ...ASKING]),
  command("version", "which versions run", [JSON_OPTION, ...ASKING]),
  command("completion", "print a completion script", [], SHELLS),
  command("login", "give the daemon credentials", [
    ...ASKING,
    REPOSITORY,
    { name: "--username", summary: "whose password it is", takes: "text" },
    { name: "--password-stdin", summary: "read the password from standard input" },
    { name: "--token-stdin", summary: "read a token from standard input" },
  ]),
  command("logout", "make the daemon forget them", [...ASKING, REPOSITORY]),
  command(
    "prefetch",
    "fill images before they are read",
    [JSON_OPTION, ...ASKING, ...PREFETCHING],
    ["start", "ls", "cancel", "set"],
  ),
  command("prefetch start", "start one", [JSON_OPTION, ...ASKING, ...PREFETCHING]),
  command("prefetch ls", "what is being prefetched", [JSON_OPTION, ...ASKING]),
  command("prefetch cancel", "end one", [JSON_OPTION, ...ASKING]),
  command("prefetch set", "change one", [JSON_OPTION, ...ASKING, ...CHANGING]),
  command("trace", "what a container reads", [], ["record", "show", "push", "pull"]),
  command(
    "trace record",
    "record it, until Ctrl-C",
    [
      ...ASKING,
      OUTPUT,
      { name: "--seconds", summary: "end by itself", takes: "text" },
      { name: "--key", summary: "only what has this key", takes: "text" },
    ],
    "directory",
  ),
  command("trace show", "list the files in it", [JSON_OPTION, CONFIG], "file"),
  command("trace push", "store it beside its image", [JSON_OPTION, CONFIG], "file"),
  command("trace pull", "get what was pushed", [CONFIG, OUTPUT]),
  command("report", "a page about how an image was read", [...ASKING, OUTPUT], "directory"),
];

function command(
  path: string,
  summary: string,
  options: readonly OptionWord[],
  takes?: CommandWord["takes"],
): CommandWord {
  return { path, summary, options: [HELP, ...options], ...(takes === undefined ? {} : { takes }) };
}

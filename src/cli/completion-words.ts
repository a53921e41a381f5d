// SPDX-License-Identifier: Apache-2.0
// The words that a shell completes, of the definitions that yargs gets: commands, their options, and
// what else they take.

import type { Argv } from "yargs";
import { LIVE_KEYS } from "../config/live-config.ts";
import {
  type RecordedCommand,
  type Settings,
  allCommands,
  recordCommands,
} from "./recorded-commands.ts";

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
/** Options whose value is a path; yargs has no word for that. */
const FILE_OPTIONS: ReadonlySet<string> = new Set([
  "socket",
  "token-file",
  "config",
  "output",
  "trace",
]);
/** What may stand for an argument, by its name. */
const ARGUMENTS = new Map<string, NonNullable<CommandWord["takes"]>>([
  ["directory", "directory"],
  ["mount", "directory"],
  ["file", "file"],
  ["from", "file"],
  ["key", LIVE_KEYS],
]);

/** Every command that `define` defines, those with commands of their own before these. */
export function commandWords(define: (parser: Argv) => unknown): CommandWord[] {
  return allCommands(recordCommands(define)).map(wordOf);
}

function wordOf(command: RecordedCommand): CommandWord {
  const { path, summary, commands } = command;
  // What is meant when no command of it is named.
  const standing = commands.find(({ isDefault }) => isDefault);
  const options = [...command.options, ...(standing?.options ?? [])].map(optionOf);
  const takes =
    commands.length > 0 ? commands.map((each) => each.path.at(-1) ?? "") : argumentOf(command);
  return {
    path: path.join(" "),
    summary,
    options: [HELP, ...options],
    ...(takes === undefined ? {} : { takes }),
  };
}

function optionOf([name, { describe = "", type }]: [string, Settings]): OptionWord {
  const word = { name: `--${name}`, summary: describe };
  if (type === "boolean") return word;
  return { ...word, takes: FILE_OPTIONS.has(name) ? "file" : "text" };
}

function argumentOf({ positionals, described }: RecordedCommand): CommandWord["takes"] {
  const names = positionals.map((text) => text.replaceAll(/[<>[\]]/g, ""));
  const found = names.map((name) => described.get(name)?.choices ?? ARGUMENTS.get(name));
  return found.find((takes) => takes !== undefined);
}

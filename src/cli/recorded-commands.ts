// SPDX-License-Identifier: Apache-2.0
// The commands and options as they are told to yargs, written down. What records them takes yargs'
// place; a method that it does not have throws, so no definition is lost silently.

import type { Argv } from "yargs";

/** What the page tells of an option or a positional. */
export interface Settings {
  readonly type?: string;
  readonly describe?: string;
  readonly alias?: string;
  readonly choices?: readonly string[];
  readonly default?: unknown;
}

export interface RecordedCommand {
  /** `["trace", "record"]`; empty for the program itself. */
  readonly path: readonly string[];
  /** What follows it, as yargs writes it: `<reference>`, `[file]`. */
  readonly positionals: readonly string[];
  /** Its last word may be left out. */
  readonly isDefault: boolean;
  readonly summary: string;
  readonly described: Map<string, Settings>;
  readonly options: Map<string, Settings>;
  readonly notes: string[];
  readonly commands: RecordedCommand[];
}

/** What `define` says of the program. */
export function recordCommands(define: (parser: Argv) => unknown): RecordedCommand {
  const program = emptyCommand({ path: [], positionals: [], isDefault: false, summary: "" });
  define(recorderOf(program));
  return program;
}

/** All commands below this one, in their order, each before its own. */
export function allCommands(command: RecordedCommand): RecordedCommand[] {
  return command.commands.flatMap((each) => [each, ...allCommands(each)]);
}

function emptyCommand(
  start: Pick<RecordedCommand, "path" | "positionals" | "isDefault" | "summary">,
): RecordedCommand {
  return { ...start, described: new Map(), options: new Map(), notes: [], commands: [] };
}

function recorderOf(into: RecordedCommand): Argv {
  const recorder = {
    command(words: string | string[], summary: string, build?: (y: Argv) => unknown) {
      const [text = "", ...aliases] = [words].flat();
      const [name = "", ...positionals] = text.split(" ");
      const isDefault = aliases.some((alias) => alias.startsWith("$0"));
      const path = [...into.path, name];
      const command = emptyCommand({ path, positionals, isDefault, summary });
      into.commands.push(command);
      build?.(recorderOf(command));
      return recorder;
    },
    option(name: string, settings: Settings) {
      into.options.set(name, settings);
      return recorder;
    },
    positional(name: string, settings: Settings) {
      into.described.set(name, settings);
      return recorder;
    },
    epilogue(text: string) {
      into.notes.push(text);
      return recorder;
    },
    // What they refuse is told by the options' own texts.
    demandCommand: () => recorder,
    conflicts: () => recorder,
    check: () => recorder,
  };
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the commands use no more of yargs than this
  return recorder as unknown as Argv;
}

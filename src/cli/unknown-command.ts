// SPDX-License-Identifier: Apache-2.0
// What to say of a command that does not exist: yargs calls it an unknown argument.

import { distance } from "fastest-levenshtein";
import type { RecordedCommand } from "./recorded-commands.ts";

/** Letters that a mistyped name may differ in. */
const TYPOS_MAX = 2;

/** Undefined when `words` begin with a command that there is. */
export function unknownCommand(program: RecordedCommand, words: readonly string[]) {
  const end = words.findIndex((word) => word.startsWith("-"));
  const named = end === -1 ? words : words.slice(0, end);
  let at = program;
  for (const [index, word] of named.entries()) {
    if (at.commands.length === 0 || at.commands.some(({ isDefault }) => isDefault)) break;
    const next = at.commands.find(({ path }) => path.at(-1) === word);
    if (next === undefined) {
      const wrong = named.slice(0, index + 1).join(" ");
      const near = at.commands
        .map(({ path }) => ({ path, letters: distance(word, path.at(-1) ?? "") }))
        .toSorted((a, b) => a.letters - b.letters)[0];
      const isNear = near !== undefined && near.letters <= TYPOS_MAX;
      return `there is no command "${wrong}"${isNear ? `, did you mean "${near.path.join(" ")}"?` : ""}`;
    }
    at = next;
  }
  return undefined;
}

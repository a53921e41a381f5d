// SPDX-License-Identifier: Apache-2.0
// `erofsd completion`: scripts for shells. They need no daemon and start no program: all that they
// know is in them.

import type { CommandWord, Shell } from "./completion-words.ts";

/** The script to source; README says where it goes. */
export function completionScript(shell: Shell, commands: readonly CommandWord[]): string {
  const words = wordsOf(commands);
  switch (shell) {
    case "bash":
      return bash(words);
    case "zsh":
      return zsh(words);
    case "fish":
      return fish(words);
    default:
      return unreachable(shell);
  }
}

type Words = ReturnType<typeof wordsOf>;

function wordsOf(commands: readonly CommandWord[]) {
  const options = commands.flatMap((command) => command.options);
  const taking = (isWanted: (takes: string) => boolean): string[] => [
    ...new Set(options.flatMap(({ name, takes = "" }) => (isWanted(takes) ? [name] : []))),
  ];
  return {
    commands,
    top: commands.filter(({ path }) => !path.includes(" ")),
    /** Options that a word follows; the names mean the same in every command. */
    valued: taking((takes) => takes !== ""),
    filed: taking((takes) => takes === "file"),
    /** Where a word is a command: `/` stands for the blank between two. */
    steps: commands.map(({ path }) => {
      const words = path.split(" ");
      return `${words.slice(0, -1).join("/")}:${words.at(-1) ?? ""}`;
    }),
  };
}

// Bash and zsh find the command in the same words: `at` is its path, `value` an option that waits.
function findCommand(
  { valued, steps }: Words,
  words: string,
  first: number,
  current: string,
): string {
  return `  for ((i = ${first}; i < ${current}; i++)); do
    word=\${${words}[i]}
    if [[ -n $value ]]; then value=""; continue; fi
    case $word in
      ${valued.join("|")}) value=$word ;;
      -*) ;;
      *) case "$at:$word" in
           ${steps.map((step) => `"${step}"`).join("|")}) at=\${at:+$at/}$word ;;
         esac ;;
    esac
  done`;
}

function bash(all: Words): string {
  const { commands, top, filed } = all;
  const cases = commands.map((command) => {
    const words = [...command.options.map(({ name }) => name), ...listed(command)].join(" ");
    const paths = pathFlag(command);
    return `    ${at(command)}) words="${words}"${paths === "" ? "" : `; paths=${paths}`} ;;`;
  });
  return `# bash completion for erofsd
_erofsd() {
  local current=\${COMP_WORDS[COMP_CWORD]} at="" value="" words="" paths="" word i
${findCommand(all, "COMP_WORDS", 1, "COMP_CWORD")}
  COMPREPLY=()
  if [[ -n $value ]]; then
    case $value in
      ${filed.join("|")}) mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
    esac
    return
  fi
  case $at in
    "") words="--help --version ${top.map(({ path }) => path).join(" ")}" ;;
${cases.join("\n")}
  esac
  mapfile -t COMPREPLY < <(
    compgen -W "$words" -- "$current"
    [[ -z $paths ]] || compgen "$paths" -- "$current"
  )
}
complete -o filenames -F _erofsd erofsd
`;
}

function zsh(all: Words): string {
  const { commands, filed } = all;
  const described = (name: string, summary: string): string =>
    quoted(`${name.replaceAll(":", "\\:")}:${summary}`);
  const cases = commands.map((command) => {
    const flags = command.options.map(({ name, summary }) => described(name, summary));
    const words = listed(command).map((word) =>
      described(word, summaryOf(commands, command, word)),
    );
    const paths = pathFlag(command);
    return `    ${at(command)}) flags=(${flags.join(" ")}); found=(${words.join(" ")})${paths === "" ? "" : `; paths=${paths}`} ;;`;
  });
  const top = all.top.map(({ path, summary }) => described(path, summary));
  return `#compdef erofsd
_erofsd() {
  local at="" value="" paths="" word i
  local -a flags found
${findCommand(all, "words", 2, "CURRENT")}
  if [[ -n $value ]]; then
    case $value in
      ${filed.join("|")}) _files ;;
    esac
    return
  fi
  case $at in
    "") flags=('--help:show help' '--version:show the version'); found=(${top.join(" ")}) ;;
${cases.join("\n")}
  esac
  (( \${#found} )) && _describe command found
  _describe -o option flags
  case $paths in
    -f) _files ;;
    -d) _files -/ ;;
  esac
}
if [[ $funcstack[1] == _erofsd ]]; then _erofsd "$@"; else compdef _erofsd erofsd; fi
`;
}

function fish({ commands, top, valued, steps }: Words): string {
  const lines = top.map(({ path, summary }) => fishLine("", `-a ${path}`, summary));
  for (const command of commands) {
    const here = command.path.replace(" ", "/");
    for (const { name, summary, takes } of command.options) {
      const kind = takes === "file" ? " -r -F" : takes === "text" ? " -x" : "";
      lines.push(fishLine(here, `-l ${name.slice(2)}${kind}`, summary));
    }
    for (const word of listed(command)) {
      lines.push(fishLine(here, `-a ${word}`, summaryOf(commands, command, word)));
    }
    if (command.takes === "file") lines.push(fishLine(here, "-F"));
    if (command.takes === "directory") {
      lines.push(fishLine(here, "-a '(__fish_complete_directories)'"));
    }
  }
  return `# fish completion for erofsd
function __erofsd_at
  set -l at ""
  set -l value ""
  for word in (commandline -opc)[2..]
    if test -n "$value"
      set value ""
      continue
    end
    switch $word
      case ${valued.join(" ")}
        set value $word
      case '-*'
      case '*'
        contains -- "$at:$word" ${steps.map(quoted).join(" ")}
        and set at (string join -- / $at $word | string trim -l -c /)
    end
  end
  test "$at" = "$argv[1]"
end
complete -c erofsd -f
${lines.join("\n")}
`;
}

function fishLine(here: string, what: string, summary?: string): string {
  const told = summary === undefined ? "" : ` -d ${quoted(summary)}`;
  return `complete -c erofsd -n '__erofsd_at "${here}"' ${what}${told}`;
}

function at({ path }: CommandWord): string {
  return path.replace(" ", "/");
}

function listed({ takes }: CommandWord): readonly string[] {
  return typeof takes === "object" ? takes : [];
}

function pathFlag({ takes }: CommandWord): string {
  if (takes === "file") return "-f";
  return takes === "directory" ? "-d" : "";
}

function summaryOf(commands: readonly CommandWord[], { path }: CommandWord, word: string): string {
  return commands.find((other) => other.path === `${path} ${word}`)?.summary ?? word;
}

/** As one word, to each of the three shells. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}

function unreachable(value: never): never {
  throw new Error(`unreachable: ${String(value)}`);
}

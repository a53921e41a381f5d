// SPDX-License-Identifier: Apache-2.0
// The command line of `nydusd singleton --fscache`, read by hand: this runs before the API socket
// listens, and a library for it would cost more time than all the rest.

import { type Flag, flagOf } from "./flags.ts";

export const NYDUSD_LOG_LEVELS = ["trace", "debug", "info", "warn", "error"] as const;
export type NydusdLogLevel = (typeof NYDUSD_LOG_LEVELS)[number];

const THREADS_DEFAULT = 4;
const THREADS_MAX = 1024;

export interface Options {
  readonly fscacheDir: string;
  readonly tag: string | undefined;
  readonly threads: number;
  readonly apiSocket: string;
  readonly id: string | undefined;
  readonly supervisor: string | undefined;
  readonly isUpgrade: boolean;
  /** A configuration file of erofsd's own (.toml). */
  readonly config: string | undefined;
  readonly logLevel: NydusdLogLevel;
  readonly logFile: string | undefined;
  /** 0: the file is never changed for a new one. */
  readonly logRotationMib: number;
  /** Flags that were given and mean nothing here, with their dashes. */
  readonly ignored: readonly string[];
}

export type Command =
  | { readonly kind: "serve"; readonly options: Options }
  | { readonly kind: "help" }
  | { readonly kind: "version" };

/** A command line that cannot be followed; the message is one line and names the flag. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** `words` are the arguments after the program. Throws a UsageError. */
export function parseCommandLine(words: readonly string[]): Command {
  const given = new Map<string, string>();
  const ignored: string[] = [];
  let mode: string | undefined;
  for (let at = 0; at < words.length; at += 1) {
    const word = words[at] ?? "";
    if (word === "--help" || word === "-h") return { kind: "help" };
    if (word === "--version" || word === "-V") return { kind: "version" };
    if (!word.startsWith("-")) {
      mode = modeOf(word, mode);
      continue;
    }
    const { flag, shown, inline } = splitWord(word);
    let value = inline ?? "";
    if (flag.takesValue && inline === undefined) {
      at += 1;
      value = valueOf(shown, words[at]);
    }
    if (!flag.takesValue && inline !== undefined) {
      throw new UsageError(`${shown} takes no value`);
    }
    if (given.has(flag.name)) throw new UsageError(`${shown} is given twice`);
    given.set(flag.name, value);
    if (flag.isIgnored) ignored.push(`--${flag.name}`);
  }
  if (mode === undefined) {
    throw new UsageError("a mode is missing: only `singleton --fscache DIR` is served");
  }
  return { kind: "serve", options: optionsOf(given, ignored) };
}

function modeOf(word: string, earlier: string | undefined): string {
  if (earlier !== undefined) throw new UsageError(`unexpected argument "${word}"`);
  if (word !== "singleton") {
    throw new UsageError(`mode "${word}" is not served: only \`singleton --fscache DIR\` is`);
  }
  return word;
}

function splitWord(word: string): { flag: Flag; shown: string; inline: string | undefined } {
  const equals = word.indexOf("=");
  let shown = equals === -1 ? word : word.slice(0, equals);
  let inline = equals === -1 ? undefined : word.slice(equals + 1);
  // -Afile, as well as -A=file and -A file.
  if (!word.startsWith("--") && shown.length > 2) {
    inline = word.slice(2);
    shown = word.slice(0, 2);
  }
  const flag = flagOf(shown);
  if (flag === undefined) throw new UsageError(`unknown flag ${shown}`);
  return { flag, shown, inline };
}

function valueOf(shown: string, next: string | undefined): string {
  if (next === undefined || (next.startsWith("-") && next.length > 1)) {
    throw new UsageError(`${shown} needs a value`);
  }
  return next;
}

function optionsOf(given: ReadonlyMap<string, string>, ignored: readonly string[]): Options {
  const config = given.get("config");
  const isOurs = config?.endsWith(".toml") === true;
  const id = given.get("id");
  const supervisor = given.get("supervisor");
  if (id !== undefined && supervisor === undefined) throw new UsageError("--id needs --supervisor");
  if (supervisor !== undefined && id === undefined) throw new UsageError("--supervisor needs --id");
  return {
    fscacheDir: required(given, "fscache"),
    tag: given.get("fscache-tag"),
    threads:
      wholeNumber(given, "fscache-threads", { least: 1, most: THREADS_MAX }) ?? THREADS_DEFAULT,
    apiSocket: required(given, "apisock"),
    id,
    supervisor,
    isUpgrade: given.has("upgrade"),
    config: isOurs ? config : undefined,
    logLevel: logLevel(given),
    logFile: given.get("log-file"),
    logRotationMib: wholeNumber(given, "log-rotation-size", { least: 0, most: 1_000_000 }) ?? 0,
    ignored: config === undefined || isOurs ? ignored : [...ignored, "--config"],
  };
}

function required(given: ReadonlyMap<string, string>, name: string): string {
  const value = given.get(name);
  if (value === undefined) throw new UsageError(`--${name} is missing`);
  if (value === "") throw new UsageError(`--${name} is empty`);
  return value;
}

function wholeNumber(
  given: ReadonlyMap<string, string>,
  name: string,
  { least, most }: { least: number; most: number },
): number | undefined {
  const text = given.get(name);
  if (text === undefined) return undefined;
  const value = /^[0-9]{1,7}$/.test(text) ? Number(text) : -1;
  if (value < least || value > most) {
    throw new UsageError(`--${name} must be a number from ${least} to ${most}, not "${text}"`);
  }
  return value;
}

function logLevel(given: ReadonlyMap<string, string>): NydusdLogLevel {
  const text = given.get("log-level") ?? "info";
  const level = NYDUSD_LOG_LEVELS.find((known) => known === text);
  if (level === undefined) {
    throw new UsageError(
      `--log-level must be one of ${NYDUSD_LOG_LEVELS.join(", ")}, not "${text}"`,
    );
  }
  return level;
}

// SPDX-License-Identifier: Apache-2.0
// The WWW-Authenticate header: one or more challenges, each a scheme with parameters whose
// values are tokens or quoted strings (RFC 9110, sections 11.2 to 11.6). One pass, no backtracking.

export interface Challenge {
  /** Lower case. */
  readonly scheme: string;
  /** Names in lower case. */
  readonly parameters: ReadonlyMap<string, string>;
}

const HEADER_LENGTH_MAX = 8192;
const TOKEN = /[!#$%&'*+\-.^_`|~0-9A-Za-z]+/y;
const BLANKS = /[ \t]*/y;
const SEPARATORS = /[ \t,]*/y;
/** A challenge may carry one bare value instead of parameters (Negotiate does). */
const TOKEN68 = /[A-Za-z0-9\-._~+/]+=*[ \t]*(?=,|$)/y;

/** The challenges in order. What follows the first malformed one is not read. */
export function parseChallenges(header: string): readonly Challenge[] {
  const reader = new Reader(header.slice(0, HEADER_LENGTH_MAX));
  const challenges: Challenge[] = [];
  for (;;) {
    reader.take(SEPARATORS);
    const scheme = reader.take(TOKEN);
    if (scheme === "") return challenges;
    const blanks = reader.take(BLANKS);
    const parameters = new Map<string, string>();
    if (blanks !== "" && reader.take(TOKEN68) === "") readParameters(reader, parameters);
    challenges.push({ scheme: scheme.toLowerCase(), parameters });
  }
}

/** Reads `name=value, ...` and stops where another challenge's scheme begins. */
function readParameters(reader: Reader, parameters: Map<string, string>): void {
  for (;;) {
    const start = reader.position;
    reader.take(SEPARATORS);
    const name = reader.take(TOKEN).toLowerCase();
    reader.take(BLANKS);
    if (name === "" || !reader.skip("=")) {
      reader.position = start;
      return;
    }
    reader.take(BLANKS);
    const value = reader.skip('"') ? reader.takeQuoted() : reader.take(TOKEN);
    if (value === undefined) {
      reader.position = reader.text.length;
      return;
    }
    if (!parameters.has(name)) parameters.set(name, value);
  }
}

class Reader {
  readonly text: string;
  position = 0;

  constructor(text: string) {
    this.text = text;
  }

  /** What `pattern` (sticky) matches here; empty when it does not. */
  take(pattern: RegExp): string {
    pattern.lastIndex = this.position;
    const found = pattern.exec(this.text)?.[0] ?? "";
    this.position += found.length;
    return found;
  }

  skip(character: string): boolean {
    if (this.text[this.position] !== character) return false;
    this.position += 1;
    return true;
  }

  /** Behind the opening quote. Undefined when the closing one is missing. */
  takeQuoted(): string | undefined {
    let value = "";
    while (this.position < this.text.length) {
      const character = this.text[this.position] ?? "";
      this.position += 1;
      if (character === '"') return value;
      if (character === "\\") {
        value += this.text[this.position] ?? "";
        this.position += 1;
      } else {
        value += character;
      }
    }
    return undefined;
  }
}

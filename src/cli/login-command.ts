// SPDX-License-Identifier: Apache-2.0
// `erofsd login` and `erofsd logout`: credentials for the running daemon. A secret comes on
// standard input, since a command line is for all users of the machine to read.

import { ask } from "../control/client.ts";
import { droppedAnswer, pushedAnswer } from "../control/schema.ts";
import { DaemonError } from "../errors.ts";
import { jsonLine } from "./output.ts";

const SECRET_LENGTH_MAX = 32 * 1024;

interface Place {
  readonly host: string;
  readonly repository?: string | undefined;
  readonly socketPath: string;
  readonly json: boolean;
}

export async function loginCommand(
  given: Place & {
    readonly username?: string | undefined;
    readonly passwordStdin: boolean;
    readonly tokenStdin: boolean;
  },
): Promise<void> {
  const { host, username, passwordStdin, tokenStdin, socketPath } = given;
  if (passwordStdin === tokenStdin) {
    throw wrong("pass --username and --password-stdin, or --token-stdin; secrets come on stdin");
  }
  if (passwordStdin !== (username !== undefined)) {
    throw wrong(passwordStdin ? "a password needs --username" : "a token has no --username");
  }
  const secret = await readSecret();
  const credentials = username === undefined ? { token: secret } : { username, password: secret };
  const body = { host, ...placeOf(given), ...credentials };
  const path = "/v1/credentials";
  await ask(socketPath, { method: "POST", path, body, answer: pushedAnswer });
  const done = `${nameOf(given)}: the daemon has the credentials, until it stops\n`;
  process.stdout.write(given.json ? jsonLine({ host, ...placeOf(given) }) : done);
}

export async function logoutCommand(given: Place): Promise<void> {
  const { host, socketPath } = given;
  const query = new URLSearchParams({ host, ...placeOf(given) });
  const path = `/v1/credentials?${query.toString()}`;
  const { deleted } = await ask(socketPath, { method: "DELETE", path, answer: droppedAnswer });
  const done = deleted ? "the daemon has forgotten the credentials" : "there were no credentials";
  const told = { host, ...placeOf(given), deleted };
  process.stdout.write(given.json ? jsonLine(told) : `${nameOf(given)}: ${done}\n`);
}

/** Standard input to its end, without the line's end that `echo` adds. */
async function readSecret(): Promise<string> {
  process.stdin.setEncoding("utf8");
  let text = "";
  for await (const piece of process.stdin) {
    text += String(piece);
    if (text.length > SECRET_LENGTH_MAX) {
      throw wrong(`standard input has more than ${SECRET_LENGTH_MAX} characters`);
    }
  }
  const secret = text.replace(/\r?\n$/, "");
  if (secret === "") throw wrong("standard input is empty");
  return secret;
}

function placeOf({ repository }: Place) {
  return repository === undefined ? {} : { repository };
}

function nameOf({ host, repository }: Place): string {
  return repository === undefined ? host : `${host}/${repository}`;
}

function wrong(detail: string): DaemonError {
  return new DaemonError({ code: "usage_invalid", detail: `login: ${detail}` });
}

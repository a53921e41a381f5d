// SPDX-License-Identifier: Apache-2.0
// One secret through every way in, with requests that succeed and that fail: nothing that anybody
// may read has it, in any spelling.
import { chmod, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { inspect } from "node:util";
import { describe, expect, it } from "vitest";
import { parseConfig } from "../../../../../src/config/config.ts";
import { asDaemonError } from "../../../../../src/errors.ts";
import { systemClock } from "../../../../../src/platform/clock.ts";
import { createCredentialSource } from "../../../../../src/source/registry/credentials/create-source.ts";
import { takeEnvironment } from "../../../../../src/source/registry/credentials/environment.ts";
import { PushedCredentials } from "../../../../../src/source/registry/credentials/pushed.ts";
import { QuietLog } from "../../../../support/quiet-log.ts";
import { CONTENT, type ClientFixture, startClient } from "../../../../support/registry-client.ts";
import { type Respond, response, rightAnswer } from "../../../../support/scripted-server.ts";
import { tempDir } from "../../../../support/temp-dir.ts";

const SECRET = "Xq7-unmistakable-Xq7";
const AUTH = Buffer.from(`alice:${SECRET}`).toString("base64");
/** What is bought with it is as secret. */
const TOKEN = `token-${SECRET}`;
const SPELLINGS = [SECRET, AUTH, Buffer.from(SECRET).toString("base64").slice(0, -4)];

interface Ways {
  readonly pushed: PushedCredentials;
  readonly log: QuietLog;
  readonly folder: string;
  readonly environment: Record<string, string>;
  configText: string;
}

type Way = (ways: Ways, host: string) => Promise<void> | void;

const auths = (host: string, entry: object): string => JSON.stringify({ auths: { [host]: entry } });

async function writeDocker({ folder, environment }: Ways, text: string): Promise<void> {
  environment["DOCKER_CONFIG"] = folder;
  await writeFile(join(folder, "config.json"), text);
}

async function writeProgram({ folder, environment }: Ways, script: string): Promise<void> {
  environment["PATH"] = `${folder}:/usr/bin:/bin`;
  const path = join(folder, "docker-credential-x");
  await writeFile(path, `#!/bin/sh\n${script}\n`);
  await chmod(path, 0o755);
}

const WAYS: readonly [string, Way][] = [
  [
    "pushed",
    ({ pushed }, host) => pushed.set(host, "team", { username: "alice", password: SECRET }),
  ],
  [
    "in the configuration",
    (ways, host) => {
      const lines = [`host = "${host}"`, 'username = "alice"', `password = "${SECRET}"`];
      ways.configText = ["[[registry.credentials]]", ...lines].join("\n");
    },
  ],
  [
    "in a file that the configuration names",
    async (ways, host) => {
      const path = join(ways.folder, "password");
      await writeFile(path, SECRET);
      const lines = [`host = "${host}"`, 'username = "alice"', `password_file = "${path}"`];
      ways.configText = ["[[registry.credentials]]", ...lines].join("\n");
    },
  ],
  [
    "in the environment",
    ({ environment }, host) => {
      environment["EROFSD_REGISTRY_AUTH"] = auths(host, { auth: AUTH });
    },
  ],
  ["in docker's file", (ways, host) => writeDocker(ways, auths(host, { auth: AUTH }))],
  [
    "an identity token in docker's file",
    (ways, host) => writeDocker(ways, auths(host, { identitytoken: SECRET })),
  ],
  [
    "a broken entry in docker's file",
    (ways, host) => writeDocker(ways, auths(host, { auth: SECRET })),
  ],
  [
    "docker's file cut off",
    (ways, host) => writeDocker(ways, auths(host, { password: SECRET }).slice(0, -4)),
  ],
  [
    "of a credential program",
    async (ways, host) => {
      const answer = JSON.stringify({ Username: "alice", Secret: SECRET });
      await writeProgram(ways, `echo '${answer}'`);
      await writeDocker(ways, JSON.stringify({ credHelpers: { [host]: "x" } }));
    },
  ],
  [
    "of a credential program that fails",
    async (ways, host) => {
      await writeProgram(ways, `echo ${SECRET}; echo ${SECRET} >&2; exit 1`);
      await writeDocker(ways, JSON.stringify({ credHelpers: { [host]: "x" } }));
    },
  ],
];

/** How the registry and its token service behave. */
const REGISTRIES: readonly [string, Respond][] = [
  [
    "gives tokens",
    withTokens((_, socket) => {
      const answer = JSON.stringify({ token: TOKEN });
      socket.write(response(200, {}, Buffer.from(answer)));
    }),
  ],
  ["refuses", withTokens((_, socket) => socket.write(response(403)))],
  [
    "answers with a broken document that has the secret",
    withTokens((_, socket) => socket.write(response(200, {}, Buffer.from(`{"${TOKEN}`)))),
  ],
  [
    "answers with an error that has the secret",
    withTokens((_, socket) =>
      socket.write(response(500, { "x-error": TOKEN }, Buffer.from(TOKEN))),
    ),
  ],
  ["breaks the connection", withTokens((_, socket) => socket.destroy())],
  [
    "wants a password with each request, and takes none",
    (_, socket) => socket.write(response(401, { "www-authenticate": 'Basic realm="x"' })),
  ],
];

function withTokens(service: Respond): Respond {
  return (request, socket) => {
    const { headers, path } = request;
    if (path.startsWith("/token")) service(request, socket);
    else if (headers.get("authorization") === `Bearer ${TOKEN}`) {
      socket.write(rightAnswer(request, CONTENT));
    } else {
      const challenge = `Bearer realm="http://${headers.get("host")}/token"`;
      socket.write(response(401, { "www-authenticate": challenge }));
    }
  };
}

/** All that was said of one read. */
async function readAndListen(client: ClientFixture): Promise<string> {
  const said: unknown[] = [];
  const error: unknown = await client.read({ offset: 0, length: 10 }).catch((e: unknown) => e);
  if (error instanceof Error) {
    const fault = asDaemonError(error);
    said.push(error, error.stack, error.cause, fault.fault, String(error), JSON.stringify(fault));
  }
  said.push(client.observed, client.logged, client.source);
  return inspect(said, { depth: 12, showHidden: true, maxStringLength: null });
}

/** What is broken stays here, and an identity token is no password. A token comes in any case. */
function doesTravel(way: string, registry: string): boolean {
  if (registry === "gives tokens") return true;
  const isPassword = registry.startsWith("wants a password");
  return !/broken|cut off|fails/.test(way) && !(isPassword && way.includes("identity token"));
}

describe.each(REGISTRIES)("where a registry %s", (registry, respond) => {
  it.each(WAYS)("credentials %s are seen by nobody else", async (name, arrange) => {
    const folder = await tempDir();
    const log = new QuietLog();
    const pushed = new PushedCredentials();
    const environment: Record<string, string> = { PATH: "/usr/bin:/bin" };
    const ways: Ways = { pushed, log, folder, environment, configText: "" };
    await using server = await startClient(respond);
    const { host } = server.server;
    await arrange(ways, host);
    const config = parseConfig(ways.configText, "test.toml");
    const taken = takeEnvironment(environment, folder);
    const credentials = createCredentialSource({
      clock: systemClock,
      log,
      pushed,
      configured: config.registry.credentials,
      dockerConfig: config.registry.docker_config,
      environment: taken,
    });
    const options = { attemptsMax: 2 };
    await using client = await startClient(respond, { host, credentials, options });
    const said = [await readAndListen(client), await readAndListen(client)];
    for (const value of [config, taken, credentials, pushed, log.lines, environment]) {
      said.push(inspect(value, { depth: 12, showHidden: false }), JSON.stringify(value));
    }
    for (const spelling of SPELLINGS) expect(said.join("\n")).not.toContain(spelling);
    // It did travel: a test that sends nothing would prove nothing.
    const sent = server.server.requests.map(({ headers, body }) => [...headers.values(), body]);
    expect(SPELLINGS.some((spelling) => sent.flat().join("\n").includes(spelling))).toBe(
      doesTravel(name, registry),
    );
  });
});

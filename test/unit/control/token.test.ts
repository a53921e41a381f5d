// SPDX-License-Identifier: Apache-2.0
// The control API over TCP: nobody without the token, whatever is asked, and the file it is in.

import { chmod, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { parseConfig } from "../../../src/config/config.ts";
import { formatAddress } from "../../../src/config/listen-address.ts";
import { RemoteError, ask } from "../../../src/control/client.ts";
import { parsePlace, placeName, placeText } from "../../../src/control/daemon-place.ts";
import { failure, healthAnswer } from "../../../src/control/schema.ts";
import { ControlServer } from "../../../src/control/server.ts";
import { TokenCheck, readToken } from "../../../src/control/token.ts";
import { onlyOperations } from "../../support/control-operations.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { faultFrom } from "../../support/faults.ts";
import { QuietLog } from "../../support/quiet-log.ts";
import { tempDir } from "../../support/temp-dir.ts";
import { ownPeers } from "../../support/own-peers.ts";

const TOKEN = "correct-horse-battery";
const HEALTH = { status: "ok", version: "1", pid: 7, uptimeSeconds: 1 } as const;

async function tokenFile(text = `${TOKEN}\n`, mode = 0o600): Promise<string> {
  const path = join(await tempDir(), "token");
  await writeFile(path, text);
  await chmod(path, mode);
  return path;
}

async function serve() {
  const path = await tokenFile();
  const clock = new FakeClock();
  const log = new QuietLog();
  const server = new ControlServer({
    peers: ownPeers(),
    socketPath: join(await tempDir(), "s"),
    operations: onlyOperations({ health: () => HEALTH }),
    log,
    tcp: {
      address: { host: "127.0.0.1", port: 0 },
      tokens: new TokenCheck({ path, clock, log }),
    },
  });
  await server.listen();
  onTestFinished(() => server.close());
  const address = await server.listenTCP();
  if (address === undefined) throw new Error("it does not listen");
  const url = `http://${formatAddress(address)}`;
  const get = (authorization?: string, route = "/v1/health", init: RequestInit = {}) =>
    fetch(`${url}${route}`, {
      ...init,
      headers: authorization === undefined ? {} : { authorization },
    });
  return { path, clock, log, url, get };
}

describe("over TCP", () => {
  test("the token opens what the socket does", async () => {
    const { url, path, get } = await serve();
    const answer = await get(`Bearer ${TOKEN}`);
    expect([answer.status, await answer.json()]).toEqual([200, HEALTH]);
    expect((await get(`bearer  ${TOKEN}`)).status).toBe(200);
    const request = { method: "GET", path: "/v1/health", answer: healthAnswer } as const;
    expect(await ask(placeText(url, path), request)).toEqual(HEALTH);
    const other = await tokenFile(`${TOKEN}2`);
    const refused = ask(placeText(url, other), request);
    await expect(refused).rejects.toBeInstanceOf(RemoteError);
    await expect(refused).rejects.toMatchObject({ failure: { code: "token_refused" } });
  });

  test.each([
    [undefined],
    [""],
    [TOKEN],
    [`Basic ${TOKEN}`],
    [`Bearer ${TOKEN}x`],
    [`Bearer ${TOKEN.slice(0, -1)}`],
    ["Bearer"],
    [`Bearer x ${TOKEN}`],
  ])("%s does not", async (authorization) => {
    const { get, log } = await serve();
    // Whatever there is or is not: who has no token learns nothing of it.
    for (const route of ["/v1/health", "/v1/metrics", "/openapi.json", "/v1/events", "/none"]) {
      const answer = await get(authorization, route);
      expect([answer.status, answer.headers.get("www-authenticate")]).toEqual([
        401,
        'Bearer realm="erofsd"',
      ]);
      const { code, message, hint = "" } = failure.parse(await answer.json());
      expect(code).toBe("token_refused");
      expect(message).toMatch(/^the daemon refuses the token/);
      expect(hint).toContain("--token-file");
    }
    expect(JSON.stringify(log.lines)).not.toContain(TOKEN);
  });

  test("a body is not read before the token", async () => {
    const { get } = await serve();
    const body = JSON.stringify({ password: "x".repeat(1 << 20) });
    const answer = await get("Bearer no", "/v1/credentials", { method: "POST", body });
    expect(answer.status).toBe(401);
  });

  test("another token counts after a second, and none while its file is unfit", async () => {
    const { get, path, clock, log } = await serve();
    await writeFile(path, "another-token-for-it");
    expect((await get(`Bearer ${TOKEN}`)).status).toBe(200);
    await clock.advance(1001);
    expect((await get(`Bearer ${TOKEN}`)).status).toBe(401);
    expect((await get("Bearer another-token-for-it")).status).toBe(200);
    await chmod(path, 0o644);
    await clock.advance(1001);
    expect((await get("Bearer another-token-for-it")).status).toBe(401);
    expect(JSON.stringify(log.lines)).toContain("it may be read by others (mode 644)");
  });
});

describe("a token's file", () => {
  test.each([
    ["short", 0o600, "it holds no token"],
    [`${TOKEN}\nand more\n`, 0o600, "it holds no token"],
    [`${TOKEN} blank`, 0o600, "it holds no token"],
    ["", 0o600, "it holds no token"],
    ["x".repeat(5000), 0o600, "it is longer than 4096 bytes"],
    [TOKEN, 0o640, "it may be read by others (mode 640): chmod 600"],
    [TOKEN, 0o604, "it may be read by others (mode 604): chmod 600"],
  ])("%# will not do", async (text, mode, detail) => {
    const path = await tokenFile(text, mode);
    const fault = await faultFrom(readToken(path));
    expect(fault).toMatchObject({ code: "config_invalid", where: `token file ${path}` });
    expect(JSON.stringify(fault)).toContain(detail);
    if (text.length > 15) expect(JSON.stringify(fault)).not.toContain(text.slice(0, 15));
  });

  test("must be there, and a file", async () => {
    const directory = await tempDir();
    expect(await faultFrom(readToken(join(directory, "none")))).toMatchObject({
      detail: "it cannot be read: ENOENT",
    });
    await mkdir(join(directory, "d"));
    expect(await faultFrom(readToken(join(directory, "d")))).toMatchObject({
      detail: "it is no file",
    });
  });
});

test("an address is loopback's, and has a token", () => {
  const config = (lines: string) => () => parseConfig(`[control]\n${lines}`, "c");
  const [listen, file] = ['listen = "127.0.0.1:9463"', 'token_file = "/etc/token"'];
  expect(config(`${listen}\n${file}`)().control).toMatchObject({ listen: "127.0.0.1:9463" });
  expect(config(listen)).toThrow("control.token_file: control.listen needs one");
  expect(config(file)).toThrow("control.listen: control.token_file is for it");
  for (const address of ["0.0.0.0:9463", "10.0.0.1:1", "localhost:1", "127.0.0.1"]) {
    expect(config(`listen = "${address}"\n${file}`)).toThrow("of this machine alone");
  }
  const text = placeText("http://[::1]:9463/", "/etc/a#b");
  expect(parsePlace(text)).toEqual({ host: "::1", port: 9463, tokenFile: "/etc/a#b" });
  expect(placeName(text)).toBe("http://[::1]:9463");
  expect(() => placeText("http://registry.example:1", "/t")).toThrow("http://127.0.0.1:PORT");
});

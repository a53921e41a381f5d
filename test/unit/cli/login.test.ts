// SPDX-License-Identifier: Apache-2.0
// `erofsd login` and `logout` against a real control socket.

import { join } from "node:path";
import { Readable } from "node:stream";
import { beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { runCommand } from "../../../src/cli/commands.ts";
import { RemoteError } from "../../../src/control/client.ts";
import type { PushCredentials } from "../../../src/control/schema.ts";
import { ControlServer } from "../../../src/control/server.ts";
import { DaemonError } from "../../../src/errors.ts";
import { onlyOperations } from "../../support/control-operations.ts";
import { QuietLog } from "../../support/quiet-log.ts";
import { tempDir } from "../../support/temp-dir.ts";
import { ownPeers } from "../../support/own-peers.ts";

const SECRET = "the-secret-9";

let socket: string;
let pushed: PushCredentials[];
let dropped: object[];
let written: string;

beforeEach(async () => {
  socket = join(await tempDir(), "erofsd.sock");
  pushed = [];
  dropped = [];
  written = "";
  const operations = onlyOperations({
    pushCredentials: (given) => void pushed.push(given),
    dropCredentials: (given) => dropped.push(given) === 1,
  });
  const server = new ControlServer({
    peers: ownPeers(),
    socketPath: socket,
    operations,
    log: new QuietLog(),
  });
  await server.listen();
  const spy = vi.spyOn(process.stdout, "write").mockImplementation((text) => {
    written += String(text);
    return true;
  });
  onTestFinished(async () => {
    spy.mockRestore();
    await server.close();
  });
});

function run(words: readonly string[], stdin = `${SECRET}\n`): Promise<number> {
  const own = Object.getOwnPropertyDescriptor(process, "stdin") ?? {};
  Object.defineProperty(process, "stdin", {
    value: Readable.from([Buffer.from(stdin)]),
    configurable: true,
  });
  onTestFinished(() => void Object.defineProperty(process, "stdin", own));
  return runCommand([...words, "--socket", socket]);
}

describe("login", () => {
  test("gives the daemon a password from standard input, without the line's end", async () => {
    expect(await run(["login", "h:5000", "-u", "alice", "--password-stdin"])).toBe(0);
    const words = ["login", "h", "--repository", "team", "--username", "bob", "--password-stdin"];
    expect(await run(words, ` ${SECRET}\n\r\n`)).toBe(0);
    expect(pushed).toEqual([
      { host: "h:5000", username: "alice", password: SECRET },
      { host: "h", repository: "team", username: "bob", password: ` ${SECRET}\n` },
    ]);
    expect(written).toContain("h/team: ");
    expect(written).not.toContain(SECRET);
  });

  test("gives the daemon a token", async () => {
    await run(["login", "h", "--token-stdin"]);
    expect(pushed).toEqual([{ host: "h", token: SECRET }]);
  });

  test.each<[readonly string[], string?]>([
    [["login"]],
    [["login", "h"]],
    [["login", "h", "--username", "alice"]],
    [["login", "h", "--password-stdin"]],
    [["login", "h", "-u", "alice", "--token-stdin"]],
    [["login", "h", "-u", "alice", "--password-stdin", "--token-stdin"]],
    [["login", "h", "-u", "alice", "--password", SECRET]],
    [["login", "h", "-u", "alice", "--password-stdin", "more"]],
    [["login", "h", "-u", "alice", "--password-stdin"], "\n"],
    [["login", "h", "-u", "alice", "--password-stdin"], SECRET.repeat(4000)],
    [["logout"]],
  ])("%j is wrong usage, which is told without a secret", async (words, stdin) => {
    const failure: unknown = await run(words, stdin).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(DaemonError);
    if (!(failure instanceof DaemonError)) return;
    expect(failure.fault.code).toBe("usage_invalid");
    expect(failure.message).not.toContain(SECRET);
    expect(pushed).toEqual([]);
  });

  test("that the daemon refuses is told in its words", async () => {
    const failure = await run(["login", "h", "-u", "x".repeat(2000), "--password-stdin"]).catch(
      (error: unknown) => error,
    );
    expect(failure).toBeInstanceOf(RemoteError);
    expect(String(failure)).not.toContain(SECRET);
  });
});

describe("logout", () => {
  test("makes the daemon forget, and says whether there was anything", async () => {
    await run(["logout", "h", "--repository", "team"]);
    expect(written).toContain("forgotten");
    await run(["logout", "h"]);
    expect(written).toContain("there were no credentials");
    expect(dropped).toEqual([{ host: "h", repository: "team" }, { host: "h" }]);
  });
});

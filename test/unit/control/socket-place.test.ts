// SPDX-License-Identifier: Apache-2.0
// Where the control socket may be, and whose.

import { chmod, chown, lstat, mkdir, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { ask } from "../../../src/control/client.ts";
import { healthAnswer } from "../../../src/control/schema.ts";
import { ControlServer } from "../../../src/control/server.ts";
import { onlyOperations } from "../../support/control-operations.ts";
import { rejectionOf } from "../../support/fault-code.ts";
import { QuietLog } from "../../support/quiet-log.ts";
import { tempDir } from "../../support/temp-dir.ts";
import { ownPeers } from "../../support/own-peers.ts";

const NOBODY = 65_534;
const isRoot = process.geteuid?.() === 0;

function serverAt(socketPath: string): ControlServer {
  const server = new ControlServer({
    peers: ownPeers(),
    socketPath,
    operations: onlyOperations({}),
    log: new QuietLog(),
  });
  onTestFinished(() => server.close().catch(() => undefined));
  return server;
}

describe("a directory", () => {
  test("that others may write in will not do, unless it is sticky", async () => {
    const directory = join(await tempDir(), "run");
    await mkdir(directory);
    const path = join(directory, "s");
    for (const mode of [0o777, 0o775]) {
      await chmod(directory, mode);
      expect(await rejectionOf(serverAt(path).listen())).toBe("config_invalid");
    }
    await chmod(directory, 0o1777);
    await serverAt(path).listen();
    expect((await lstat(path)).isSocket()).toBe(true);
  });

  test.runIf(isRoot)("of another user will not do", async () => {
    const directory = join(await tempDir(), "run");
    await mkdir(directory);
    await chown(directory, NOBODY, NOBODY);
    await expect(serverAt(join(directory, "s")).listen()).rejects.toMatchObject({
      message: `control.socket: ${join(directory, "s")}: ${directory} belongs to user ${NOBODY}`,
    });
  });

  test("that cannot be is a fault of the configuration", async () => {
    const file = join(await tempDir(), "file");
    await writeFile(file, "");
    expect(await rejectionOf(serverAt(join(file, "s")).listen())).toBe("config_invalid");
    const long = join(await tempDir(), "x".repeat(120));
    expect(await rejectionOf(serverAt(long).listen())).toBe("config_invalid");
  });
});

describe.runIf(isRoot)("a socket of another user", () => {
  async function strangers(): Promise<string> {
    const path = join(await tempDir(), "s");
    const other = createServer();
    await new Promise<void>((resolve) => void other.listen(path, resolve));
    onTestFinished(() => void other.close());
    await chown(path, NOBODY, NOBODY);
    return path;
  }

  test("is not replaced", async () => {
    const path = await strangers();
    expect(await rejectionOf(serverAt(path).listen())).toBe("config_invalid");
    expect((await lstat(path)).uid).toBe(NOBODY);
  });

  test("is told nothing by the command line", async () => {
    const socketPath = await strangers();
    const asking = ask(socketPath, { method: "GET", path: "/v1/health", answer: healthAnswer });
    await expect(asking).rejects.toMatchObject({
      fault: {
        code: "daemon_unreachable",
        detail: "it belongs to user 65534, who is neither root nor you",
      },
    });
  });
});

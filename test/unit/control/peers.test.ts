// SPDX-License-Identifier: Apache-2.0
// The control socket asked by another user, where its mode lets everybody in. Needs root.

import { execFile } from "node:child_process";
import { chmod } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { expect, onTestFinished, test } from "vitest";
import { ControlServer } from "../../../src/control/server.ts";
import { QuietLog } from "../../support/quiet-log.ts";
import { onlyOperations } from "../../support/control-operations.ts";
import { ownPeers } from "../../support/own-peers.ts";
import { tempDir } from "../../support/temp-dir.ts";

const NOBODY = 65_534;
const ASK = `
import os, socket, sys
os.setuid(int(sys.argv[2]))
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b"GET /v1/live HTTP/1.1\\r\\nconnection: close\\r\\n\\r\\n")
answer = b""
while piece := s.recv(65536): answer += piece
print(answer.decode())
`;

test("only root and the daemon's own user are answered", async () => {
  const socketPath = join(await tempDir(), "erofsd.sock");
  const server = new ControlServer({
    socketPath,
    operations: onlyOperations({}),
    log: new QuietLog(),
    peers: ownPeers(),
  });
  await server.listen();
  onTestFinished(() => server.close());
  await chmod(dirname(socketPath), 0o755);
  await chmod(socketPath, 0o666);
  const askedBy = async (uid: number): Promise<string> =>
    (await promisify(execFile)("python3", ["-c", ASK, socketPath, String(uid)])).stdout;
  expect(await askedBy(0)).not.toContain("peer_refused");
  const refused = await askedBy(NOBODY);
  expect(refused).toMatch(/^HTTP\/1.1 403 /);
  expect(refused).toContain(`user ${NOBODY} may not use the control socket`);
});

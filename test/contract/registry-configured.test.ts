// SPDX-License-Identifier: Apache-2.0
// What the daemon's configuration says of mirrors, proxies and directories reaches its rooms.
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, expect, it, vi } from "vitest";
import { parseConfig } from "../../src/config/config.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { loadNative } from "../../src/platform/native.ts";
import { buildRooms } from "../../src/rooms.ts";
import { sameBytes } from "../support/bytes.ts";
import { type RunningRegistry, startDockerRegistry } from "../support/docker-registry.ts";
import { digestOf } from "../support/oci-image.ts";
import { pushBlob } from "../support/push.ts";
import { QuietLog } from "../support/quiet-log.ts";
import { startScriptedServer } from "../support/scripted-server.ts";
import { tempDir } from "../support/temp-dir.ts";

const CONTENT = Uint8Array.from({ length: 50_000 }, (_, at) => (at * 31 + (at >> 8)) & 255);
const HOST = "registry.invalid:5000";

let registry: RunningRegistry;

beforeAll(async () => {
  registry = await startDockerRegistry();
  await pushBlob({ host: registry.host, repository: "team/app" }, CONTENT);
});

afterAll(() => registry.stop());
afterEach(() => {
  vi.unstubAllEnvs();
});

async function startRooms(folder: string, more: string) {
  const log = new QuietLog();
  const text = `[cache]\ndir = "${folder}/cache"\n[registry]\ncerts_dir = "${folder}/certs.d"\n${more}`;
  const native = loadNative({ writerThreads: 1 });
  const rooms = await buildRooms({
    config: parseConfig(text, "test"),
    native,
    log,
    onFillFailure: () => undefined,
  });
  const read = async (): Promise<boolean> => {
    const origin = { kind: "registry", host: HOST, repository: "team/app" } as const;
    const blob = { origin, digest: digestOf(CONTENT), size: CONTENT.length };
    const pieces: Uint8Array[] = [];
    await rooms.source.readRange(
      blob,
      { offset: 100, length: 20_000 },
      (piece) => pieces.push(Uint8Array.from(piece)),
      { signal: new AbortController().signal, deadlineMs: systemClock.nowMs() + 20_000 },
    );
    return sameBytes(Uint8Array.from(Buffer.concat(pieces)), CONTENT.subarray(100, 20_100));
  };
  const close = async (): Promise<void> => {
    await rooms.source.close();
    await native.destroy();
  };
  return { rooms, read, [Symbol.asyncDispose]: close };
}

it("a hosts.toml in certs_dir leads to the mirror", async () => {
  const folder = await tempDir();
  await mkdir(join(folder, "certs.d", "_default"), { recursive: true });
  const text = `[host."http://${registry.host}"]\n`;
  await writeFile(join(folder, "certs.d", "_default", "hosts.toml"), text);
  await using made = await startRooms(folder, "");
  expect(await made.read()).toBe(true);
  expect(made.rooms.counts.requests).toBe(1);
});

it("a directory of blob_dirs is looked into first", async () => {
  const folder = await tempDir();
  await writeFile(join(folder, digestOf(CONTENT)), CONTENT);
  await using made = await startRooms(folder, `blob_dirs = ["/none", "${folder}"]`);
  expect(await made.read()).toBe(true);
  expect(made.rooms.counts.requests).toBe(0);
});

it("a proxy of the environment is gone through", async () => {
  const folder = await tempDir();
  const asked: string[] = [];
  const proxy = await startScriptedServer((request, socket) => {
    asked.push(`${request.method} ${request.path}`);
    socket.end("HTTP/1.1 502 X\r\n\r\n");
  });
  vi.stubEnv("HTTPS_PROXY", `http://${proxy.host}`);
  vi.stubEnv("NO_PROXY", "");
  await using made = await startRooms(folder, "attempts = 1");
  await expect(made.read()).rejects.toThrow(/registry\.invalid:5000/);
  expect(asked[0]).toBe(`CONNECT ${HOST}`);
  await proxy.close();
});

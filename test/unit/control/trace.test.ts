// SPDX-License-Identifier: Apache-2.0
// A trace over a real socket: from the engine to the command's file, and whoever does not listen.

import { readFile } from "node:fs/promises";
import { type Socket, connect } from "node:net";
import { once } from "node:events";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { recordTrace } from "../../../src/cli/trace-command.ts";
import { ControlServer } from "../../../src/control/server.ts";
import { parseTrace } from "../../../src/image/trace-format.ts";
import { TraceRecorder } from "../../../src/control/trace-recorder.ts";
import { nextTurn } from "../../../src/platform/clock.ts";
import { BLOCK_BYTES } from "../../../src/units.ts";
import { onlyOperations } from "../../support/control-operations.ts";
import { codeOf, rejectionOf } from "../../support/fault-code.ts";
import { FlowRig, blocks, patternBytes } from "../../support/flow-rig.ts";
import { QuietLog } from "../../support/quiet-log.ts";
import { tempDir } from "../../support/temp-dir.ts";
import { ownPeers } from "../../support/own-peers.ts";

async function daemon() {
  const rig = new FlowRig();
  const { engine, clock } = rig;
  const recorder = new TraceRecorder({ engine, clock, version: "0", unixMs: Date.now });
  const operations = onlyOperations({ trace: recorder.record.bind(recorder) });
  const directory = await tempDir();
  const socketPath = join(directory, "socket");
  const server = new ControlServer({
    peers: ownPeers(),
    socketPath,
    operations,
    log: new QuietLog(),
  });
  await server.listen();
  onTestFinished(() => server.close());
  const object = await rig.open(rig.blob(patternBytes(20 * BLOCK_BYTES)), (fake) => {
    fake.extents = [blocks(0, 20)];
  });
  const until = async (done: () => boolean): Promise<void> => {
    // Only this guard looks at the machine's clock.
    for (const endMs = performance.now() + 10_000; !done(); ) {
      if (performance.now() > endMs) throw new Error("it does not happen");
      await new Promise((resolve) => void setImmediate(resolve));
    }
  };
  return { rig, recorder, server, socketPath, output: join(directory, "trace"), object, until };
}

describe("erofsd trace record", () => {
  test("writes what is read meanwhile into its file, and ends when the time is up", async () => {
    const { rig, recorder, socketPath, output, object, until } = await daemon();
    const recording = recordTrace({ socketPath, output, seconds: 5, keys: [] });
    await until(() => recorder.openCount === 1);
    rig.read(object, 3, 4);
    await rig.clock.advance(5000);
    await recording;
    const trace = parseTrace(await readFile(output, "utf8"), output);
    expect(trace.reads).toEqual([{ ms: 0, stream: 0, offset: 3 * BLOCK_BYTES, length: 4096 }]);
    expect(trace.streams.map(({ key }) => key)).toEqual([object.cookieKey]);
  });

  test("ends on Ctrl-C with what it has, and the daemon forgets it", async () => {
    const { rig, recorder, socketPath, output, object, until } = await daemon();
    const recording = recordTrace({ socketPath, output, seconds: undefined, keys: [] });
    await until(() => recorder.openCount === 1);
    rig.read(object, 0, 1);
    // On this machine a line is there after few turns of the loop that it shares with the daemon.
    for (let turns = 0; turns < 500; turns += 1) await nextTurn();
    process.emit("SIGINT");
    await recording;
    await until(() => recorder.openCount === 0);
    expect(parseTrace(await readFile(output, "utf8"), output).reads.length).toBe(1);
  });

  test("fails when the daemon goes away, or the file cannot be written", async () => {
    const { rig, recorder, server, socketPath, output, until } = await daemon();
    const recording = rejectionOf(
      recordTrace({ socketPath, output, seconds: undefined, keys: [] }),
    );
    await until(() => recorder.openCount === 1);
    const nowhere = { socketPath, output: join(output, "x"), seconds: 1, keys: [] };
    const unwritten = recordTrace(nowhere).catch(codeOf);
    await until(() => recorder.openCount === 2);
    await rig.clock.advance(1000);
    expect(await unwritten).toBe("syscall_failed");
    await until(() => recorder.openCount === 1);
    await server.close();
    expect(await recording).toBe("daemon_unreachable");
  });
});

describe("whoever asks for a trace", () => {
  test("and does not take it holds up no reader, nor the daemon's memory", async () => {
    const { rig, recorder, socketPath, object, until } = await daemon();
    const client = await ask(socketPath, "/v1/trace");
    client.pause();
    await until(() => recorder.openCount === 1);
    for (let n = 0; n < 20_000; n += 1) {
      if (rig.read(object, 0, 1).answer !== "complete") throw new Error("a reader waits");
      if (n % 1000 === 0) await new Promise((resolve) => void setImmediate(resolve));
    }
    let text = "";
    client.setEncoding("latin1").on("data", (piece: string) => {
      text += piece;
    });
    client.resume();
    await until(() => {
      rig.read(object, 1, 2);
      return text.includes('{"dropped":');
    });
    client.destroy();
    await until(() => recorder.openCount === 0);
    expect(rig.engine.readObserver).toBeUndefined();
  });

  test("without a daemon begins no file", async () => {
    const { server, socketPath, output } = await daemon();
    await server.close();
    const recording = recordTrace({ socketPath, output, seconds: undefined, keys: [] });
    expect(await rejectionOf(recording)).toBe("daemon_unreachable");
    expect(await readFile(output).catch(() => "none")).toBe("none");
  });

  test("with a wish that makes no sense is told so", async () => {
    const { socketPath } = await daemon();
    for (const query of ["seconds=0", "seconds=x", "seconds=1e9", "key="]) {
      const client = await ask(socketPath, `/v1/trace?${query}`);
      client.setEncoding("latin1");
      const pieces: unknown[] = await once(client, "data");
      expect([query, String(pieces[0]).split("\r\n")[0]]).toEqual([
        query,
        "HTTP/1.1 400 Bad Request",
      ]);
      client.destroy();
    }
  });
});

async function ask(socketPath: string, path: string): Promise<Socket> {
  const client = connect(socketPath);
  client.on("error", () => undefined);
  client.write(`GET ${path} HTTP/1.1\r\nhost: erofsd\r\n\r\n`);
  await once(client, "connect");
  return client;
}

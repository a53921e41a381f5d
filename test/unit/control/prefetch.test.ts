// SPDX-License-Identifier: Apache-2.0
// Prefetch over the control socket, on images that nobody has mounted.

import { readFile, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import {
  type PrefetchView,
  prefetchView,
  startedPrefetch,
} from "../../../src/control/prefetch-schema.ts";
import { DaemonError } from "../../../src/errors.ts";
import { BLOCK_BYTES } from "../../../src/units.ts";
import { ControlRig, prefetchesOf } from "../../support/control-rig.ts";
import { mkfsErofs, writeTree } from "../../support/mkfs.ts";
import { tempDir } from "../../support/temp-dir.ts";

const REFERENCE = "registry.example/app:v1";
const B = BLOCK_BYTES;

/** A rig with a real image of some files behind REFERENCE. */
async function withImage(args: readonly string[] = []) {
  const rig = await ControlRig.start();
  const folder = await tempDir();
  const path = join(folder, "image");
  await mkfsErofs(path, await writeTree(folder), args);
  const bytes = new Uint8Array(await readFile(path));
  const stream = rig.names.flow.blob(bytes);
  const content = { kind: "erofs", manifestDigest: stream.digest, stream, devices: [] } as const;
  rig.names.publish(REFERENCE, { ...content, reference: REFERENCE });
  return { rig, stream, bytes };
}

async function start(rig: ControlRig, more: object = {}) {
  const body = JSON.stringify({ reference: REFERENCE, ...more });
  const reply = await rig.ask("POST", "/v1/prefetches", body);
  const { status, json, text } = reply;
  return {
    status,
    text,
    get view() {
      return startedPrefetch.parse(json);
    },
  };
}

async function look(rig: ControlRig, id: string): Promise<PrefetchView> {
  return prefetchView.parse((await rig.ask("GET", `/v1/prefetches/${id}`)).json);
}

/** Lets time pass and bytes come until it has ended. */
async function ended(rig: ControlRig, id: string): Promise<PrefetchView> {
  const { flow } = rig.names;
  for (let round = 0; round < 200; round += 1) {
    const view = await look(rig, id);
    if (!["waiting", "running"].includes(view.state)) return view;
    await flow.clock.advance(200);
    await flow.drain();
  }
  throw new Error("it does not end");
}

describe("a prefetch", () => {
  test("of a whole image fills it, and is remembered", async () => {
    const { rig, stream } = await withImage();
    const { status, view } = await start(rig);
    expect([status, view.joined, view.totalBytes >= stream.size]).toEqual([200, false, true]);
    const last = await ended(rig, view.id);
    expect([last.state, last.cachedBytes]).toEqual(["done", last.totalBytes]);
    const { json } = await rig.ask("GET", "/v1/prefetches");
    expect(json).toMatchObject({ prefetches: [{ id: view.id, kind: "all", state: "done" }] });
    expect(rig.names.flow.engine.openObjects).toEqual([]);
  });

  test("of some files fetches these and what it takes to find them", async () => {
    const { rig, stream } = await withImage();
    const { view } = await start(rig, { paths: ["/sub"], globs: ["noi*"] });
    const last = await ended(rig, view.id);
    expect(last.state).toBe("done");
    expect(last.totalBytes).toBeGreaterThan(100_000);
    expect(last.totalBytes).toBeLessThan(stream.size - 40 * B);
  });

  test("of names that match nothing is refused, naming them, and leaves nothing", async () => {
    const { rig } = await withImage();
    const { status, text } = await start(rig, { paths: ["text"], globs: ["*.so", "lib/**"] });
    expect(status).toBe(400);
    expect(JSON.parse(text)).toMatchObject({
      code: "nothing_matches",
      message: `${REFERENCE}: no file matches "*.so", "lib/**"`,
    });
    expect((await rig.ask("GET", "/v1/prefetches")).json).toEqual({ prefetches: [] });
    expect(await readdir(join(rig.cacheDir, "prefetches")).catch(() => [])).toEqual([]);
  });

  test("of compressed files fetches what is stored of these", async () => {
    const { rig, stream } = await withImage(["-zlz4"]);
    const { view } = await start(rig, { paths: ["text"] });
    const last = await ended(rig, view.id);
    expect(last.state).toBe("done");
    // Not the 100 kB that do not compress.
    expect(last.totalBytes).toBeGreaterThan(50_000);
    expect(last.totalBytes).toBeLessThan(stream.size - 50_000);
  });

  test("of a trace comes in its order, neighbours together; one of another image is refused", async () => {
    const { rig, stream } = await withImage();
    const other = {
      streams: [{ stream: 0, digest: `sha256:${"0".repeat(64)}` }],
      reads: [[0, 0, B]],
    };
    const refused = await start(rig, { trace: other });
    expect([refused.status, refused.text.includes("trace_mismatch")]).toEqual([400, true]);
    const reads = [60, 22, 21, 20, 60].map((block) => [0, block * B, B]);
    const trace = { streams: [{ stream: 0, digest: stream.digest }], reads };
    const { view } = await start(rig, { trace });
    rig.names.flow.source.fetches.length = 0;
    const last = await ended(rig, view.id);
    expect([last.state, last.cachedBytes]).toEqual(["done", 4 * B]);
    expect(rig.names.flow.asked).toEqual(["prefetch 20-23", "prefetch 60-61"]);
  });

  test("asked for again joins the one under way; another of the same image does not", async () => {
    const { rig } = await withImage();
    const first = await start(rig);
    const again = await start(rig, { priority: 7 });
    expect([again.view.id, again.view.joined]).toEqual([first.view.id, true]);
    expect(again.view).toMatchObject({ priority: 7 });
    const other = await start(rig, { paths: ["text"] });
    expect(other.view.id).not.toBe(first.view.id);
  });

  test("can be changed and cancelled, and then forgotten", async () => {
    const { rig } = await withImage();
    const { view } = await start(rig, { bandwidthLimit: 4096 });
    const path = `/v1/prefetches/${view.id}`;
    const changed = await rig.ask(
      "PATCH",
      path,
      JSON.stringify({ bandwidthLimit: 0, priority: -3 }),
    );
    expect(changed.json).toMatchObject({ bandwidthLimit: 0, priority: -3 });
    expect((await rig.ask("DELETE", path)).json).toMatchObject({ state: "cancelled" });
    expect((await look(rig, view.id)).state).toBe("cancelled");
    await rig.ask("DELETE", path);
    const gone = await rig.ask("GET", path);
    expect([gone.status, gone.text.includes("prefetch_unknown")]).toEqual([404, true]);
  });

  test("can be watched to its end", async () => {
    const { rig } = await withImage();
    const { view } = await start(rig);
    const watched = rig.ask("GET", `/v1/prefetches/${view.id}/events`);
    await ended(rig, view.id);
    const states = [...(await watched).text.matchAll(/"state":"([a-z]+)"/g)].map(([, one]) => one);
    expect(states.at(-1)).toBe("done");
    expect(states.length).toBeGreaterThan(1);
  });

  test("that cannot reach its source waits, and goes on when it can", async () => {
    const { rig } = await withImage();
    const { view } = await start(rig);
    const { flow } = rig.names;
    await flow.clock.advance(200);
    for (const fetch of flow.source.open)
      fetch.fail(new DaemonError({ code: "registry_unreachable", host: "r", detail: "down" }));
    await flow.clock.advance(500);
    const waiting = await rig.ask("GET", `/v1/prefetches/${view.id}`);
    expect(waiting.json).toMatchObject({ failure: { code: "registry_unreachable" } });
    const last = await ended(rig, view.id);
    expect(last.state).toBe("done");
    expect(last).not.toHaveProperty("failure");
  });
});

describe("after a restart", () => {
  test("what had not ended goes on; what is damaged is told of and left out", async () => {
    const { rig } = await withImage();
    const done = await start(rig, { paths: ["sub/tiny"] });
    await ended(rig, done.view.id);
    const { view } = await start(rig);
    const folder = join(rig.cacheDir, "prefetches");
    await writeFile(join(folder, "00000000.json"), '{"version":1');
    const later = prefetchesOf(rig.names, rig.cacheDir, rig.log);
    await later.load();
    expect(Object.fromEntries(later.list().map(({ id, state }) => [id, state]))).toEqual({
      [view.id]: "active",
      [done.view.id]: "done",
    });
    expect(rig.log.lines).toContainEqual(
      expect.objectContaining({ level: "warn", fields: { code: "state_damaged" } }),
    );
  });
});

test.each([
  [{ paths: [] }, "paths"],
  [{ trace: { streams: [], reads: [] }, paths: ["a"] }, "trace"],
  [{ priority: 1.5 }, "priority"],
  [{ flightsMax: 0 }, "flightsMax"],
  [{ bandwidthLimit: -1 }, "bandwidthLimit"],
  [{ speed: 1 }, "speed"],
])("%j is refused by the field %s", async (more, field) => {
  const rig = await ControlRig.start();
  const { status, text } = await start(rig, more);
  expect([status, JSON.parse(text)]).toEqual([
    400,
    expect.objectContaining({ code: "request_invalid", field }),
  ]);
});

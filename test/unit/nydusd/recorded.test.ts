// SPDX-License-Identifier: Apache-2.0
// The recorded requests of a snapshotter that need no kernel, against a scripted service.

import { readFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { fsidOf } from "../../../src/nydusd/fsid.ts";
import { DaemonError } from "../../../src/errors.ts";
import { isJson } from "../../../src/nydusd/bind-fields.ts";
import { type Entry, compare, readRecording } from "../../kernel/nydusd-recorded.ts";
import { Rig } from "./scripted-rooms.ts";

const SCENARIOS = [
  "policy=failover, errors and removal",
  "policy=failover, domain_id=shared in the template",
  "policy=restart, cull of files in use",
];

async function send(rig: Rig, { exchange }: Entry): Promise<string | undefined> {
  if (exchange === undefined) return undefined;
  const { method, path, query, body } = exchange.request;
  const target = query === null ? path : `${path}?${query}`;
  const sent = typeof body === "string" && !body.startsWith("{") ? undefined : body;
  const answered = await rig.ask(method, target, sent);
  return compare(exchange, answered, {
    isBound: (fsid) => rig.service.images.has(fsid),
    fsidOf,
  });
}

/** What is on disk in the recording, and not here. */
function scriptDisk(rig: Rig, scenario: string): void {
  const bind = rig.service.bind.bind(rig.service);
  rig.service.bind = async (image) => {
    const head = await readFile(image.bootstrapPath, "utf8");
    if (head.startsWith("RAFS")) return bind(image);
    throw new DaemonError({ code: "image_invalid", where: "here", detail: "no RAFS" });
  };
  if (scenario.includes("in use")) rig.service.culls = "in use";
}

describe("recorded requests are answered as nydusd answers them, or better", () => {
  test.each(SCENARIOS)("%s", async (scenario) => {
    const rig = await Rig.make();
    await rig.begin(["--id", "d1", "--supervisor", `${rig.root}/supervisor/d1.sock`]);
    scriptDisk(rig, scenario);
    const entries = readRecording({ $ROOT: rig.root, $ID: "d1" });
    const [first] = entries.filter(
      ({ exchange }) =>
        exchange !== undefined &&
        isJson(exchange.request.body) &&
        exchange.request.method === "PUT",
    );
    // Each of these begins with the image bound.
    if (first !== undefined) await send(rig, first);
    const problems: string[] = [];
    const own = entries.filter((entry) => entry.scenario === scenario);
    for (const entry of own) {
      // Said of another image, which was bound by hand.
      if (entry.n === 145)
        await rig.ask("PUT", "/api/v2/blobs", {
          ...rig.body("32e72ef854d48d4850f6d677b5a085dc25cd69250129636ae0cd8322f7722201"),
          domain_id: "shared",
        });
      const problem = entry.n === 105 ? undefined : await send(rig, entry);
      if (problem !== undefined) problems.push(`${entry.n} ${entry.phase}: ${problem}`);
    }
    expect(problems).toEqual([]);
    expect(own.length).toBeGreaterThan(3);
  });
});

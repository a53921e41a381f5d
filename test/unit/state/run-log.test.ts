// SPDX-License-Identifier: Apache-2.0
// Why the daemon was started again, as its file tells the next one.

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { RunLog } from "../../../src/state/run-log.ts";
import { tempDir } from "../../support/temp-dir.ts";

test("a first start is none, and later ones are told by what came before", async () => {
  const path = join(await tempDir(), "runs.json");
  const first = new RunLog(path);
  await first.began();
  expect(first.restarts).toEqual({ stopped: 0, died: 0, reboot: 0 });
  await first.ended();
  const second = new RunLog(path);
  await second.began();
  expect(second.restarts).toEqual({ stopped: 1, died: 0, reboot: 0 });
  const third = new RunLog(path);
  await third.began();
  expect(third.restarts).toEqual({ stopped: 1, died: 1, reboot: 0 });
  const text = await readFile(path, "utf8");
  const bootId = /"bootId":"([^"]+)"/.exec(text)?.[1] ?? "?";
  const rest = text.replace(/^\{"checksum":"[0-9a-f]*",/, "{");
  await writeFile(path, rest.replace(bootId, "another"));
  const fourth = new RunLog(path);
  await fourth.began();
  expect(fourth.restarts).toEqual({ stopped: 1, died: 1, reboot: 1 });
});

test("what cannot be read is begun anew, and a stop before a start writes nothing", async () => {
  const path = join(await tempDir(), "runs.json");
  await writeFile(path, "nonsense");
  const runs = new RunLog(path);
  await runs.ended();
  expect(await readFile(path, "utf8")).toBe("nonsense");
  await runs.began();
  expect(runs.restarts).toEqual({ stopped: 0, died: 0, reboot: 0 });
});

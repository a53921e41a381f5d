// SPDX-License-Identifier: Apache-2.0
// The commands that look, against a real control socket over the daemon's own rooms.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { runCommand } from "../../../src/cli/commands.ts";
import { eventsCommand } from "../../../src/cli/events-command.ts";
import { imagesCommand, inspectCommand, psCommand } from "../../../src/cli/image-commands.ts";
import { size, styleOf, table } from "../../../src/cli/output.ts";
import { reportError } from "../../../src/cli/report.ts";
import { configSchema, parseConfig } from "../../../src/config/config.ts";
import { viewConfig } from "../../../src/config/config-view.ts";
import { registeredImage } from "../../../src/control/schema.ts";
import { parseMountinfo } from "../../../src/kernel/mountinfo.ts";
import { ControlRig } from "../../support/control-rig.ts";
import { rejectionOf } from "../../support/fault-code.ts";
import { TAG } from "../../support/names-rig.ts";
import { tempDir } from "../../support/temp-dir.ts";

let rig: ControlRig;
let fsid: string;
let digest: string;

beforeEach(async () => {
  rig = await ControlRig.start();
  rig.names.publish(TAG, rig.names.image());
  const image = registeredImage.parse((await rig.register(TAG)).json);
  fsid = image.fsid;
  digest = image.manifestDigest;
});

/** A command line in this process, with what it printed. */
async function printed(...words: string[]): Promise<string> {
  let text = "";
  const spy = vi.spyOn(process.stdout, "write").mockImplementation((piece) => {
    text += String(piece);
    return true;
  });
  onTestFinished(() => {
    spy.mockRestore();
  });
  try {
    expect(await rig.names.settled(runCommand(words))).toBe(0);
  } finally {
    spy.mockRestore();
  }
  return text;
}

class Terminal {
  text = "";
  readonly isTTY: boolean;

  constructor(isTTY: boolean) {
    this.isTTY = isTTY;
  }

  write(piece: string): void {
    this.text += piece;
  }
}

function rowsOf(text: string): string[][] {
  return text
    .trimEnd()
    .split("\n")
    .map((line) => line.split(/ {2,}/));
}

const at = () => ["--socket", rig.socketPath];

describe("erofsd images", () => {
  test("is a table of what is known, with digests whole where no person reads it", async () => {
    const rows = rowsOf(await printed("images", ...at()));
    expect(rows[0]).toEqual(["REFERENCE", "MANIFEST", "FORMAT", "SIZE", "CACHED", "OPEN", "FSID"]);
    expect(rows[1]).toEqual([TAG, digest, "erofs", "16.0 KiB", "0%", "no", fsid]);
  });

  test("shortens digests on a terminal, and has colours there unless NO_COLOR is set", async () => {
    const given = { socketPath: rig.socketPath, json: false };
    vi.stubEnv("NO_COLOR", "");
    vi.stubEnv("TERM", "xterm");
    onTestFinished(() => void vi.unstubAllEnvs());
    const coloured = new Terminal(true);
    await imagesCommand(given, coloured);
    expect(coloured.text.startsWith("\u001B[1mREFERENCE")).toBe(true);
    expect(coloured.text).toContain(`  ${digest.slice(7, 19)}  `);
    vi.stubEnv("NO_COLOR", "1");
    const plain = new Terminal(true);
    await imagesCommand(given, plain);
    expect(plain.text).not.toContain("\u001B");
  });

  test("is JSON when asked for", async () => {
    const json: unknown = JSON.parse(await printed("images", "--json", ...at()));
    expect(json).toMatchObject({ images: [{ reference: TAG, fsid, open: false }] });
  });
});

describe("erofsd inspect", () => {
  test("takes an fsid, a reference or a digest, and tells the last failure", async () => {
    await rig.open(fsid);
    rig.failFill(fsid, "it is down");
    for (const name of [TAG, fsid, digest]) {
      const text = await printed("inspect", name, ...at());
      expect(text).toContain(`reference  ${TAG}\n`);
      expect(text).toContain("state      open\n");
      expect(text).toContain("failed     registry h cannot be reached: it is down (");
      expect(text).toMatch(/^bootstrap +16\.0 KiB /m);
    }
  });

  test("of something unknown ends with status 5 and a hint", async () => {
    const words = ["inspect", "nothing", ...at()];
    const failure: unknown = await rig.names
      .settled(runCommand(words))
      .catch((error: unknown) => error);
    const spy = vi.spyOn(process.stderr, "write").mockImplementation(() => true);
    onTestFinished(() => {
      spy.mockRestore();
    });
    expect(reportError(failure)).toBe(5);
    expect(spy.mock.calls).toEqual([
      ['erofsd: no image is known as "nothing"\nhint: `erofsd images` lists what there is\n'],
    ]);
  });

  test("shows no control characters of others", async () => {
    const output = new Terminal(true);
    const { socketPath } = rig;
    rig.operations.image = async (name) => {
      const image = await rig.operations.images();
      const [one] = image;
      if (one === undefined) throw new Error("there is none");
      return { ...one, reference: `${name}\u001B[2J`, unbound: true, streams: [] };
    };
    await inspectCommand({ name: "x", json: false, socketPath }, output);
    expect(output.text).not.toContain("\u001B[2J");
    expect(output.text).toContain("state      not open, not to be mounted anew");
  });
});

describe("erofsd ps", () => {
  const mountinfo = () =>
    parseMountinfo(
      [
        `36 35 0:30 / /mnt/a\\040b ro - erofs none ro,fsid=${fsid},domain_id=erofsd`,
        "37 35 0:31 / /mnt/other ro - erofs none ro,fsid=foreign,domain_id=else",
        "38 35 8:1 / /mnt/block ro - erofs /dev/sda1 ro",
        "39 35 8:2 / / rw - ext4 /dev/sda2 rw",
      ].join("\n"),
    );

  test("lists mounts with their images, and those of others without", async () => {
    rig.mounting.entries.push(...mountinfo());
    const output = new Terminal(false);
    await psCommand({ socketPath: rig.socketPath, json: false }, output);
    expect(rowsOf(output.text)).toEqual([
      ["MOUNT POINT", "REFERENCE", "DOOR", "DEVICES", "SIZE", "CACHED", "MANIFEST"],
      ["/mnt/a b", TAG, "cachefiles", "0", "16.0 KiB", "0%", digest],
      ["/mnt/other", "-", "cachefiles", "-", "-", "-", "-"],
    ]);
  });

  test("is JSON when asked for", async () => {
    expect(JSON.parse(await printed("ps", "--json", ...at()))).toEqual({ mounts: [] });
    rig.mounting.entries.push(...mountinfo());
    expect(JSON.parse(await printed("ps", "--json", ...at()))).toMatchObject({
      mounts: [{ mountPoint: "/mnt/a b", reference: TAG }, { fsid: "foreign" }],
    });
  });
});

describe("erofsd events", () => {
  test.each([true, false])("prints them until the daemon stops (json: %s)", async (json) => {
    const output = new Terminal(false);
    const watching = eventsCommand({ socketPath: rig.socketPath, json }, output);
    await rig.names.until(() => rig.events.listenerCount === 1);
    rig.failFill(fsid, "it is down");
    rig.events.stop();
    await watching;
    const lines = output.text.trimEnd().split("\n");
    expect(lines.length).toBe(2);
    if (json) {
      expect(lines.map((line) => JSON.parse(line) as unknown)).toMatchObject([
        { type: "fill-failed", fsids: [fsid], failure: { code: "registry_unreachable" } },
        { type: "stopping" },
      ]);
    } else {
      expect(lines[0]).toContain(`fill-failed    ${fsid}: registry h cannot be reached`);
    }
  });

  test("ends on Ctrl-C, and fails when the daemon dies", async () => {
    const watching = eventsCommand({ socketPath: rig.socketPath, json: true }, new Terminal(false));
    await rig.names.until(() => rig.events.listenerCount === 1);
    process.emit("SIGINT");
    await watching;
    const cut = rejectionOf(
      eventsCommand({ socketPath: rig.socketPath, json: true }, new Terminal(false)),
    );
    await rig.names.until(() => rig.events.listenerCount === 1);
    await rig.server.close();
    expect(await cut).toBe("daemon_unreachable");
  });
});

describe("erofsd config", () => {
  test("check says that a file is right, or what is wrong with it", async () => {
    const file = join(await tempDir(), "config.toml");
    await writeFile(file, '[engine]\nwindow = "2MiB"\n');
    expect(await printed("config", "check", file)).toBe(`${file}: ok\n`);
    expect(JSON.parse(await printed("config", "check", "--json", file))).toEqual({
      path: file,
      exists: true,
      valid: true,
    });
    await writeFile(file, "[engine]\nwindwo = 1\n");
    await expect(runCommand(["config", "check", file])).rejects.toMatchObject({
      message: `${file}: unknown key "engine.windwo", did you mean "window"?`,
    });
    expect(await rejectionOf(runCommand(["config", "check", `${file}.none`]))).toBe(
      "config_invalid",
    );
  });

  test("show gives what the daemon uses; as TOML it configures the same", async () => {
    const text = await printed("config", "show", ...at());
    expect(text).toContain('window = "1MiB"');
    expect(parseConfig(text, "shown")).toEqual(
      parseConfig(`[cache]\ndir = "${rig.cacheDir}"`, "x"),
    );
    const json: unknown = JSON.parse(await printed("config", "show", "--json", ...at()));
    expect(json).toMatchObject({ cache: { dir: rig.cacheDir }, limits: { open_timeout: "15s" } });
  });

  test("show of a file needs no daemon and shows no secret", async () => {
    const file = join(await tempDir(), "config.toml");
    const credentials = '[[registry.credentials]]\nhost = "h"\ntoken = "the-secret"\n';
    await writeFile(file, `[limits]\nopen_timeout = "90s"\n${credentials}`);
    const text = await printed("config", "show", file);
    expect(text).toContain('open_timeout = "90s"');
    expect(text).toContain('token = "[secret]"');
    expect(text).not.toContain("the-secret");
  });

  test("show has every key that the schema has", () => {
    const view = viewConfig(parseConfig("", "defaults"));
    expect(Object.keys(view).toSorted()).toEqual(Object.keys(configSchema.shape).toSorted());
    const config = parseConfig('[limits]\ndrain_timeout = "0s"\nread_timeout = "1500ms"', "x");
    expect(viewConfig(config)).toMatchObject({
      limits: { drain_timeout: "0ms", read_timeout: "1500ms", open_timeout: "15s" },
    });
  });
});

describe("erofsd version", () => {
  test("tells the daemon's too, where one answers", async () => {
    const json: unknown = JSON.parse(await printed("version", "--json", ...at()));
    expect(json).toMatchObject({ node: process.versions.node, daemon: { version: "1.2.3" } });
    const text = await printed("version", "--socket", `${rig.socketPath}.none`);
    expect(text).toMatch(/^erofsd \d+\.\d+\.\d+ \(Node\.js .*\)\ndaemon none answers\n$/);
  });
});

describe("a table", () => {
  test("has columns as wide as they need, and says how big things are", () => {
    const style = styleOf({ write: () => undefined });
    expect(
      table(
        ["A", "LONG"],
        [
          ["xxx", "1"],
          ["y", "\u0007"],
        ],
        style,
      ),
    ).toBe("A    LONG\nxxx  1\ny    ?\n");
    expect([0, 1023, 1024, 1536, 200 * 1024, 3 * 1024 ** 3, 5000 * 1024 ** 4].map(size)).toEqual([
      "0 B",
      "1023 B",
      "1.0 KiB",
      "1.5 KiB",
      "200 KiB",
      "3.0 GiB",
      "5000 TiB",
    ]);
  });
});

// SPDX-License-Identifier: Apache-2.0
// The command line's words: which are understood, and how a command ends when they are not.

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { runCommand } from "../../../src/cli/commands.ts";
import { reportError } from "../../../src/cli/report.ts";
import { RemoteError } from "../../../src/control/client.ts";
import { DaemonError } from "../../../src/errors.ts";
import { rejectionOf } from "../../support/fault-code.ts";
import { tempDir } from "../../support/temp-dir.ts";

/** Everything written to stderr while the test runs. */
function stderr(): string[] {
  const written: string[] = [];
  const spy = vi.spyOn(process.stderr, "write").mockImplementation((text) => {
    written.push(String(text));
    return true;
  });
  onTestFinished(() => {
    spy.mockRestore();
  });
  return written;
}

describe("words that make no command", () => {
  test.each([
    [[]],
    [["mount"]],
    [["mount", "registry.example/app"]],
    [["mount", "registry.example/app", "/mnt", "/more"]],
    [["mount", "registry.example/app", "/mnt", "--jsno"]],
    [["umount"]],
    [["unmount", "/mnt"]],
    [["status", "--socket"]],
    [["status", "extra"]],
    [["ps", "extra"]],
    [["inspect"]],
    [["config"]],
    [["config", "chek"]],
    [["completion"]],
    [["events", "--jsno"]],
  ])("%j are refused as wrong usage", async (words) => {
    expect(await rejectionOf(runCommand(words))).toBe("usage_invalid");
  });

  test("are told in one line, also when there is a choice", async () => {
    await expect(runCommand(["completion", "tcsh"])).rejects.toMatchObject({
      message: 'Invalid values: Argument: shell, Given: "tcsh", Choices: "bash", "zsh", "fish"',
    });
  });
});

describe("the daemon's socket", () => {
  test("is the one that is named", async () => {
    const socket = join(await tempDir(), "none.sock");
    const asking = runCommand(["status", "--socket", socket]);
    await expect(asking).rejects.toMatchObject({
      fault: { code: "daemon_unreachable", socketPath: socket },
    });
  });

  test("is else the one of the configuration that is named", async () => {
    const directory = await tempDir();
    const config = join(directory, "config.toml");
    await writeFile(config, `[control]\nsocket = "${directory}/other.sock"\n`);
    const asking = runCommand(["status", "--config", config]);
    await expect(asking).rejects.toMatchObject({
      fault: { code: "daemon_unreachable", socketPath: `${directory}/other.sock` },
    });
  });

  test("is not guessed when that configuration is wrong", async () => {
    const config = join(await tempDir(), "none.toml");
    expect(await rejectionOf(runCommand(["status", "--config", config]))).toBe("config_invalid");
  });
});

describe("a directory", () => {
  test("to mount on must exist and be one", async () => {
    const directory = await tempDir();
    const file = join(directory, "file");
    await writeFile(file, "");
    const socket = join(directory, "none.sock");
    for (const target of [join(directory, "none"), file]) {
      const mounting = runCommand(["mount", "registry.example/app", target, "--socket", socket]);
      expect(await rejectionOf(mounting)).toBe("usage_invalid");
    }
  });

  test("that is no mount of ours is not unmounted", async () => {
    const directory = join(await tempDir(), "plain");
    await mkdir(directory);
    for (const target of [directory, "/proc", join(directory, "none")]) {
      const words = ["umount", target, "--socket", join(directory, "none.sock")];
      expect(await rejectionOf(runCommand(words))).toBe("mount_unknown");
    }
  });
});

describe("a failure", () => {
  test.each([
    [new DaemonError({ code: "usage_invalid", detail: "d" }), 2],
    [new DaemonError({ code: "device_denied", path: "/dev/x" }), 3],
    [new DaemonError({ code: "registry_unreachable", host: "h", detail: "d" }), 4],
    [new DaemonError({ code: "image_unsupported", where: "w", detail: "d" }), 5],
    [new DaemonError({ code: "daemon_unreachable", socketPath: "s", detail: "d" }), 6],
    [new RemoteError({ code: "manifest_not_found", message: "m", hint: "h" }), 4],
    [new RemoteError({ code: "from_a_newer_daemon", message: "m", hint: "h" }), 1],
    [new TypeError("oops"), 1],
    ["text", 1],
  ])("%s ends with status %d", (error, status) => {
    stderr();
    expect(reportError(error)).toBe(status);
  });

  test("is told in one line with its hint below", () => {
    const written = stderr();
    reportError(new RemoteError({ code: "key_unknown", message: "what failed", hint: "do this" }));
    reportError(new RemoteError({ code: "key_unknown", message: "what failed", hint: "" }));
    expect(written).toEqual(["erofsd: what failed\nhint: do this\n", "erofsd: what failed\n"]);
  });
});

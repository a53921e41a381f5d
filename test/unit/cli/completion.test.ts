// SPDX-License-Identifier: Apache-2.0
// Completion: what bash really offers, and that its words are those of the command line.

import { execFileSync, spawnSync } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { SHELLS, commandWords } from "../../../src/cli/completion-words.ts";
import { completionScript } from "../../../src/cli/completion.ts";
import { addCommands, runCommand } from "../../../src/cli/commands.ts";
import { tempDir } from "../../support/temp-dir.ts";

const COMMAND_WORDS = commandWords(addCommands);

/** What bash offers for the last of these words. */
async function offered(...words: string[]): Promise<string[]> {
  const directory = await tempDir();
  await mkdir(join(directory, "a directory"));
  await writeFile(join(directory, "afile"), "");
  await writeFile(join(directory, "script"), completionScript("bash", COMMAND_WORDS));
  const program = [
    "source ./script",
    `COMP_WORDS=(erofsd "$@"); COMP_CWORD=$#`,
    "_erofsd",
    `printf '%s\\n' "\${COMPREPLY[@]}"`,
  ].join("\n");
  const args = ["--norc", "-c", program, "bash", ...words];
  const text = execFileSync("bash", args, { cwd: directory, encoding: "utf8" });
  // compgen lists files as the directory has them.
  const lines = text.split("\n").filter((line) => line !== "" && line !== "script");
  return words.at(-1)?.startsWith("a") === true ? lines.toSorted() : lines;
}

describe("bash", () => {
  test("offers commands, and of a command its options", async () => {
    expect(await offered("m")).toEqual(["mount"]);
    expect(await offered("in")).toEqual(["inspect"]);
    expect(await offered("")).toContain("completion");
    expect(await offered("images", "--")).toEqual([
      "--help",
      "--socket",
      "--token-file",
      "--config",
      "--json",
    ]);
  });

  test("offers commands of commands, also after options with values", async () => {
    expect(await offered("config", "c")).toEqual(["check"]);
    expect(await offered("trace", "record", "--se")).toEqual(["--seconds"]);
    expect(await offered("images", "--socket", "mount", "--js")).toEqual(["--json"]);
    expect(await offered("completion", "")).toEqual(["--help", "bash", "zsh", "fish"]);
  });

  test("offers files and directories where they belong, with blanks in them", async () => {
    expect(await offered("config", "check", "a")).toEqual(["a directory", "afile"]);
    expect(await offered("mount", "reference", "a")).toEqual(["a directory"]);
    expect(await offered("status", "--socket", "a")).toEqual(["a directory", "afile"]);
    expect(await offered("trace", "record", "--seconds", "a")).toEqual([]);
    expect(await offered("ps", "a")).toEqual([]);
  });
});

describe("the scripts", () => {
  test.each(SHELLS)("for %s hold every command and option", (shell) => {
    const script = completionScript(shell, COMMAND_WORDS);
    for (const { path, options } of COMMAND_WORDS) {
      expect(script).toContain(path.split(" ").at(-1));
      for (const { name } of options) {
        expect(script).toContain(shell === "fish" ? `-l ${name.slice(2)}` : name);
      }
    }
  });

  test.each(SHELLS)("for %s are right for that shell", async (shell) => {
    const file = join(await tempDir(), "script");
    await writeFile(file, completionScript(shell, COMMAND_WORDS));
    const { status, stderr } = spawnSync(shell, ["-n", file], { encoding: "utf8" });
    expect([status, stderr]).toEqual([0, ""]);
  });
});

describe("the words, made of the definitions,", () => {
  async function helpOf(path: string): Promise<string> {
    let text = "";
    const keep = (piece: unknown): boolean => {
      text += `${String(piece)}\n`;
      return true;
    };
    const spies = [
      vi.spyOn(process.stdout, "write").mockImplementation(keep),
      vi.spyOn(console, "log").mockImplementation(keep),
    ];
    onTestFinished(() => {
      for (const spy of spies) spy.mockRestore();
    });
    await runCommand([...path.split(" ").filter((word) => word !== ""), "--help"]);
    for (const spy of spies) spy.mockRestore();
    return text;
  }

  test.each(COMMAND_WORDS.map((command) => [command.path, command] as const))(
    "of %s are those that its help names",
    async (path, command) => {
      const text = await helpOf(path);
      const said = new Set(
        [...text.matchAll(/^ +(?:-\w, )?(--[a-z-]+)/gm)].map((found) => String(found[1])),
      );
      said.delete("--version");
      expect([...said].toSorted()).toEqual(command.options.map(({ name }) => name).toSorted());
    },
  );

  test("are all the commands that there are", async () => {
    const text = await helpOf("");
    const said = [...text.matchAll(/^ {2}erofsd ([a-z]+)/gm)].map(([, name]) => name);
    const known = COMMAND_WORDS.filter(({ path }) => !path.includes(" ")).map(({ path }) => path);
    expect(new Set(said)).toEqual(new Set(known));
    expect(text).toContain("Exit status: 0 done");
    expect(text).toContain("NO_COLOR");
  });
});

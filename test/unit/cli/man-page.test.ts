// SPDX-License-Identifier: Apache-2.0
// The manual page: sound mdoc, and all that the program takes, reads and answers.

import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { ENVIRONMENT, manPage } from "../../../scripts/lib/man-page.ts";
import { nydusdManPage } from "../../../scripts/lib/nydusd-man-page.ts";
import { commandWords } from "../../../src/cli/completion-words.ts";
import { addCommands } from "../../../src/cli/commands.ts";
import { DEFAULT_CONFIG_PATH, DEFAULT_SOCKET_PATH } from "../../../src/config/config.ts";
import { ERROR_POLICY } from "../../../src/errors.ts";
import { FLAGS } from "../../../src/nydusd/flags.ts";
import { tempDir } from "../../support/temp-dir.ts";

const COMMAND_WORDS = commandWords(addCommands);
/** Letters that are struck twice are bold or underlined. */
const STRUCK_TWICE = new RegExp(`.${String.fromCodePoint(8)}`, "gu");

async function page(name = "erofsd", make: typeof manPage = manPage) {
  const file = join(await tempDir(), `${name}.8`);
  await writeFile(file, make("1.2.3", new Date("2020-02-01T00:00:00Z")));
  const text = execFileSync("mandoc", ["-Tascii", "-Owidth=400", file], { encoding: "utf8" });
  const read = text.replaceAll(STRUCK_TWICE, "");
  const section = (heading: string): string =>
    new RegExp(`^${heading}$([^]*?)(?=^[A-Z]|$(?![^]))`, "m").exec(read)?.[1] ?? "";
  return { file, read, section };
}

describe("the manual page", () => {
  test.each([
    ["erofsd", manPage],
    ["erofsd-nydusd", nydusdManPage],
  ])("is sound: %s", async (name, make) => {
    const { file, read } = await page(name, make);
    const { stdout, error } = spawnSync("mandoc", ["-Tlint", "-Wstyle", file], {
      encoding: "utf8",
    });
    expect(error).toBeUndefined();
    // What else it says is about the machine's own index of pages, in which ours need not be.
    const said = stdout.split("\n").filter((line) => line.includes(`${name}.8`));
    expect(said.filter((line) => !/referenced manual not found: Xr erofsd/.test(line))).toEqual([]);
    expect(read.startsWith(`${name.toUpperCase()}(8)`)).toBe(true);
    expect(read).toContain("February 1, 2020");
    expect(read).toContain("erofsd 1.2.3");
  });

  test("has every command with its options, as completion offers them", async () => {
    const { read, section } = await page();
    const heads = section("DESCRIPTION").match(/^ {5}[a-z].*/gm) ?? [];
    const groups = new Set(["config", "image", "prefetch", "trace"]);
    for (const { path, options } of COMMAND_WORDS.filter((each) => !groups.has(each.path))) {
      const head = heads.find((each) =>
        each.trim().replaceAll(/[[\]]/g, "").startsWith(`${path} `),
      );
      expect(head, path).toBeDefined();
      for (const { name } of options.filter((each) => each.name !== "--help")) {
        expect(head).toContain(`[${name}`);
        expect(read).toMatch(new RegExp(`^ +(?:-\\w, )?${name}\\b.*\\s+[a-zA-Z]`, "m"));
      }
    }
  });

  test("in nydusd's place: has every flag that is taken", async () => {
    const { read } = await page("erofsd-nydusd", nydusdManPage);
    for (const { name, isIgnored } of FLAGS) {
      expect(read).toMatch(
        new RegExp(isIgnored ? `--${name}\\b` : `^ +(?:-\\w, )?--${name}\\b`, "m"),
      );
    }
  });

  test("has every exit status that an error leads to", async () => {
    const { section } = await page();
    const text = section("EXIT STATUS");
    const statuses = new Set(Object.values(ERROR_POLICY).map(({ exitCode }) => exitCode));
    for (const status of [0, ...statuses]) expect(text).toMatch(new RegExp(`^ {5}${status} `, "m"));
  });

  test("has the files that it uses unless told otherwise", async () => {
    const { section } = await page();
    const text = section("FILES");
    for (const path of [DEFAULT_CONFIG_PATH, DEFAULT_SOCKET_PATH, "/var/lib/erofsd"]) {
      expect(text).toContain(path);
    }
  });

  test("has what the program reads of its environment", async () => {
    const { section } = await page();
    const sources = execFileSync("git", ["ls-files", "src"], { encoding: "utf8" }).split("\n");
    const words = sources
      .filter((path) => path.endsWith(".ts"))
      .flatMap((path) => [...readFileSync(path, "utf8").matchAll(ENVIRONMENT_USE)])
      .map((found) => String(found[1] ?? found[2]));
    expect(new Set(words).size).toBeGreaterThan(8);
    const untold = [...new Set(words)].filter(
      (word) => !OWN.has(word) && !section("ENVIRONMENT").includes(word),
    );
    expect(untold).toEqual([]);
    for (const name of ENVIRONMENT.keys()) expect(section("ENVIRONMENT")).toContain(name);
  });
});

const ENVIRONMENT_USE =
  /env(?:ironment)?(?:\.|\[")([A-Z][A-Z_]+)|"((?:EROFSD|HTTP|NO)S?_[A-Z_]+)"/g;
/** What one daemon tells the one that follows it. */
const OWN = new Set(["EROFSD_FOLLOWS"]);

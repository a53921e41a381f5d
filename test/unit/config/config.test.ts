// SPDX-License-Identifier: Apache-2.0
// The configuration: what is assumed, what is accepted, and that each mistake is named.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { inspect } from "node:util";
import { describe, expect, test } from "vitest";
import { loadConfig, parseConfig } from "../../../src/config/config.ts";
import { DaemonError } from "../../../src/errors.ts";
import { rejectionOf } from "../../support/fault-code.ts";
import { tempDir } from "../../support/temp-dir.ts";

const parse = (text: string): ReturnType<typeof parseConfig> => parseConfig(text, "test.toml");

/** The detail of the fault that parsing `text` ends with. */
function mistake(text: string): string {
  try {
    parse(text);
  } catch (error) {
    if (error instanceof DaemonError && error.fault.code === "config_invalid") {
      expect(error.fault.where).toBe("test.toml");
      return error.fault.detail;
    }
    throw error;
  }
  return "";
}

describe("the defaults", () => {
  test("are a whole configuration", () => {
    const config = parse("");
    expect(config.cache).toEqual({
      dir: "/var/lib/erofsd",
      tag: "erofsd",
      brun: 7,
      bcull: 5,
      bstop: 1,
      frun: 7,
      fcull: 5,
      fstop: 1,
    });
    expect(config.kernel).toEqual({
      door: "auto",
      allow_unsafe: false,
      device: "/dev/cachefiles",
      domain_id: "erofsd",
    });
    expect(config.engine.window).toBe(1024 * 1024);
    expect(config.limits.open_timeout).toBe(15_000);
    expect(config.limits.bytes_in_flight).toBe(32 * 1024 * 1024);
    expect(config.registry).toMatchObject({ plain_http: [], hedge_percent: 3 });
    expect(config.p2p).toMatchObject({ fallback: true, check_interval: 5_000, piece: 4_194_304 });
    expect(config.p2p.proxy).toBeUndefined();
  });

  test("hold for what a table leaves out", () => {
    const config = parse('[engine]\nwindow = "64KiB"\n[cache]\nbrun = 20');
    expect(config.engine).toMatchObject({ window: 65_536, integrity: "prefer" });
    expect(config.cache).toMatchObject({ brun: 20, bcull: 5 });
  });
});

describe("an unknown key", () => {
  test.each([
    ["[engine]\nwindov = 1", 'unknown key "engine.windov", did you mean "window"?'],
    ['[limit]\nread_timeout = "1s"', 'unknown key "limit", did you mean "limits"?'],
    [
      "[registry]\nplain_htpp = []",
      'unknown key "registry.plain_htpp", did you mean "plain_http"?',
    ],
    ["[cache]\nzzzzzzzzzzzz = 1", 'unknown key "cache.zzzzzzzzzzzz"'],
  ])("%j is named with the nearest known one", (text, detail) => {
    expect(mistake(text)).toBe(detail);
  });

  test("is reported with every other mistake", () => {
    const detail = mistake("[engine]\nwindov = 1\nwriter_threads = 0");
    expect(detail).toContain("windov");
    expect(detail).toContain("engine.writer_threads");
  });
});

describe("a wrong value names its key:", () => {
  test.each([
    ["[engine]\nwindow = 65536", "engine.window", "a size as text"],
    ['[engine]\nwindow = "1 megabyte"', "engine.window", "is not a size"],
    ['[engine]\nwindow = "1KiB"', "engine.window", "not between 4KiB and 8MiB"],
    ['[engine]\nwindow = "16MiB"', "engine.window", "not between 4KiB and 8MiB"],
    ['[engine]\nwindow = "5000B"', "engine.window", "not a multiple of 4KiB"],
    ['[engine]\nwindow = "-1MiB"', "engine.window", "is not a size"],
    ['[engine]\nintegrity = "maybe"', "engine.integrity", ""],
    ['[limits]\nopen_timeout = "15"', "limits.open_timeout", "is not a duration"],
    ['[limits]\nopen_timeout = "0s"', "limits.open_timeout", "not between 1s and 10m"],
    ['[limits]\nread_timeout = "0.0001ms"', "limits.read_timeout", "is not a duration"],
    ['[cache]\ndir = "relative"', "cache.dir", "an absolute path"],
    ['[cache]\ntag = "two words"', "cache.tag", "visible ASCII"],
    ["[cache]\nbrun = 100", "cache.brun", ""],
    ["[cache]\nbrun = 7.5", "cache.brun", ""],
    ['[kernel]\ndomain_id = "a/b"', "kernel.domain_id", '"/"'],
    ['[kernel]\ndomain_id = "a,b"', "kernel.domain_id", "comma"],
    [`[kernel]\ndomain_id = "${"d".repeat(249)}"`, "kernel.domain_id", "248"],
    ['[log]\nlevel = "loud"', "log.level", ""],
    ["cache = 7", "cache", ""],
    ["[registry]\nhedge_percent = 51", "registry.hedge_percent", ""],
    ['[p2p]\nproxy = "127.0.0.1:4001"', "p2p.proxy", "write http://host:port"],
    ['[p2p]\nhosts = ["a"]', "p2p", "it names no proxy"],
    ['[p2p]\nproxy = "http://a"\nheaders = { "a b" = "c" }', "p2p.headers.a b", ""],
    ['[p2p]\nproxy = "http://a"\nheaders = { a = "b\\r\\nc: d" }', "p2p.headers.a", "visible"],
  ])("%j", (text, key, part) => {
    const detail = mistake(text);
    expect(detail.startsWith(`${key}:`), detail).toBe(true);
    expect(detail).toContain(part);
  });
});

test.each([
  ["bcull = 1", "bstop < bcull < brun must hold (1, 1, 7)"],
  ["bcull = 7", "bstop < bcull < brun must hold (1, 7, 7)"],
  ["fstop = 6", "fstop < fcull < frun must hold (6, 5, 7)"],
])("limits that the kernel would refuse are refused: %s", (line, detail) => {
  expect(mistake(`[cache]\n${line}`)).toContain(detail);
});

test("a mistake in the TOML gives its line", () => {
  expect(mistake('[engine]\nwindow = "1MiB\n')).toMatch(/^line 2, column \d+: /);
});

test.each([
  ['"4KiB"', 4096],
  ['"1.5MiB"', 1_572_864],
  ['"8192B"', 8192],
  ['"8 MiB"', 8_388_608],
])("the size %s is %d bytes", (text, bytes) => {
  expect(parse(`[engine]\nwindow = ${text}`).engine.window).toBe(bytes);
});

test.each([
  ['"1s"', 1000],
  ['"1500ms"', 1500],
  ['"1.5s"', 1500],
  ['"10m"', 600_000],
])("the duration %s is %d ms", (text, ms) => {
  expect(parse(`[limits]\nread_timeout = ${text}`).limits.read_timeout).toBe(ms);
});

describe("a file", () => {
  test("is read and checked, and named in mistakes", async () => {
    const path = join(await tempDir(), "config.toml");
    await writeFile(path, '[log]\nlevel = "debug"\n');
    expect((await loadConfig(path)).log.level).toBe("debug");
    await writeFile(path, "[log]\nlevle = 1\n");
    await expect(loadConfig(path)).rejects.toMatchObject({ fault: { where: path } });
  });

  test("that is missing or no file is a configuration mistake", async () => {
    const directory = await tempDir();
    expect(await rejectionOf(loadConfig(join(directory, "none.toml")))).toBe("config_invalid");
    expect(await rejectionOf(loadConfig(directory))).toBe("config_invalid");
  });
});

describe("registry credentials", () => {
  const credentials = (entry: string) => `[[registry.credentials]]\n${entry}`;

  test("are taken in each of their forms, and shown in none", () => {
    const config = parse(
      [
        'host = "h"\nusername = "u"\npassword = "secret9"',
        'host = "h:5000"\nrepository = "team"\nusername = "u"\npassword_file = "/run/p"',
        'host = "https://index.docker.io/v1/"\ntoken = "secret9"',
        'host = "h"\nrepository = "v2/x"\ntoken_file = "/run/t"',
      ]
        .map((entry) => credentials(entry))
        .join("\n"),
    );
    const [first, second, third, fourth] = config.registry.credentials;
    expect([first?.password?.reveal(), third?.token?.reveal()]).toEqual(["secret9", "secret9"]);
    expect([second?.passwordFile, fourth?.tokenFile]).toEqual(["/run/p", "/run/t"]);
    const printed = inspect(config, { depth: 9 }) + JSON.stringify(config);
    expect(printed).not.toContain("secret9");
  });

  test.each([
    ['host = "a secret9"\ntoken = "x"', "registry.credentials.0.host: it names no host"],
    [
      'host = "h"\nrepository = "Secret9"\ntoken = "x"',
      "registry.credentials.0.repository: it names no repository",
    ],
    [
      'host = "h"',
      "registry.credentials.0.host: give one of password, password_file, token and token_file",
    ],
    ['host = "h"\npassword = "secret9"', "registry.credentials.0.username: a password needs one"],
    [
      'host = "h"\nusername = "u"\ntoken = "secret9"',
      "registry.credentials.0.username: a token has none",
    ],
    ['host = "h"\ntoken = "secret9 x"', "registry.credentials.0.token: it is not a token"],
    [
      'host = "h"\nusername = "secret9:"\npassword = "secret9"',
      "registry.credentials.0.username: a user name has no colon",
    ],
    [
      'host = "h"\nusername = "u"\npassword_file = "secret9"',
      "registry.credentials.0.password_file: an absolute path",
    ],
  ])("%j are refused with their place and without their value", (entry, detail) => {
    expect(mistake(credentials(entry))).toBe(detail);
  });

  test("a file of docker's is a path, or nothing", () => {
    expect(parse("").registry.docker_config).toBeUndefined();
    expect(parse('[registry]\ndocker_config = ""').registry.docker_config).toBe("");
    expect(mistake('[registry]\ndocker_config = "x"')).toBe(
      "registry.docker_config: an absolute path, or empty",
    );
  });
});

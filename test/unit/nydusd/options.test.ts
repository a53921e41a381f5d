// SPDX-License-Identifier: Apache-2.0

import { describe, expect, test } from "vitest";
import { type Options, UsageError, parseCommandLine } from "../../../src/nydusd/options.ts";
import { usage } from "../../../src/nydusd/flags.ts";

const NEEDED = ["singleton", "--fscache", "/c", "--apisock", "/a"];

function served(...words: string[]): Options {
  const command = parseCommandLine(words);
  if (command.kind !== "serve") throw new Error(command.kind);
  return command.options;
}

function refusal(...words: string[]): string {
  try {
    parseCommandLine(words);
  } catch (error) {
    if (error instanceof UsageError) return error.message;
    throw error;
  }
  return "accepted";
}

describe("the command line", () => {
  test("of the snapshotter under failover is understood", () => {
    expect(
      served(
        ..."singleton --fscache /r/cache --fscache-threads 8 --upgrade --id d1".split(" "),
        ..."--apisock /r/api1.sock --log-level warn --log-rotation-size 100".split(" "),
        ..."--supervisor /r/s.sock --log-file /r/n.log".split(" "),
      ),
    ).toEqual({
      fscacheDir: "/r/cache",
      tag: undefined,
      threads: 8,
      apiSocket: "/r/api1.sock",
      id: "d1",
      supervisor: "/r/s.sock",
      isUpgrade: true,
      config: undefined,
      logLevel: "warn",
      logFile: "/r/n.log",
      logRotationMib: 100,
      ignored: [],
    });
  });

  test("has nydusd's defaults", () => {
    expect(served(...NEEDED)).toMatchObject({
      threads: 4,
      logLevel: "info",
      logRotationMib: 0,
      isUpgrade: false,
    });
  });

  test("may write a value behind =, and short flags in each form", () => {
    const options = served("-A=/a", "singleton", "--fscache=/c", "-ldebug", "-L", "/l");
    expect(options).toMatchObject({ apiSocket: "/a", fscacheDir: "/c", logLevel: "debug" });
    expect(options.logFile).toBe("/l");
  });

  test("may have flags of other modes, which are named as ignored", () => {
    const words = ["--thread-num", "4", "--hybrid-mode", "--failover-policy=flush"];
    expect(served(...NEEDED, ...words, "--rlimit-nofile", "0", "-B", "/b").ignored).toEqual([
      "--thread-num",
      "--hybrid-mode",
      "--failover-policy",
      "--rlimit-nofile",
      "--bootstrap",
    ]);
  });

  test("may name a configuration of erofsd's; nydusd's is ignored", () => {
    expect(served(...NEEDED, "-C", "/e.toml").config).toBe("/e.toml");
    expect(served(...NEEDED, "-C", "/n.json")).toMatchObject({
      config: undefined,
      ignored: ["--config"],
    });
  });

  test.each([
    [[...NEEDED, "--nope"], "unknown flag --nope"],
    [[...NEEDED, "-x"], "unknown flag -x"],
    [["singleton", "--apisock", "/a"], "--fscache is missing"],
    [["singleton", "--fscache", "/c"], "--apisock is missing"],
    [["singleton", "--fscache"], "--fscache needs a value"],
    [["singleton", "--fscache", "--apisock", "/a"], "--fscache needs a value"],
    [["singleton", "--fscache=", "--apisock", "/a"], "--fscache is empty"],
    [[...NEEDED, "--upgrade=yes"], "--upgrade takes no value"],
    [[...NEEDED, "--fscache", "/d"], "--fscache is given twice"],
    [[...NEEDED, "--id", "x"], "--id needs --supervisor"],
    [[...NEEDED, "--supervisor", "/s"], "--supervisor needs --id"],
    [[...NEEDED, "more"], 'unexpected argument "more"'],
    [[...NEEDED, "--fscache-threads", "0"], "--fscache-threads must be a number from 1 to 1024"],
    [[...NEEDED, "--log-rotation-size", "1M"], "--log-rotation-size must be a number"],
    [[...NEEDED, "--log-level", "loud"], "--log-level must be one of trace, debug, info"],
    [["fuse", "--mountpoint", "/m"], 'mode "fuse" is not served'],
    [["--fscache", "/c", "--apisock", "/a"], "a mode is missing"],
    [[], "a mode is missing"],
  ])("%j is refused: %s", (words, message) => {
    expect(refusal(...words)).toContain(message);
    expect(refusal(...words)).not.toContain("\n");
  });

  test("asks for help or the version wherever it does", () => {
    expect(parseCommandLine(["--version"]).kind).toBe("version");
    expect(parseCommandLine(["singleton", "-V"]).kind).toBe("version");
    expect(parseCommandLine(["--help"]).kind).toBe("help");
    expect(usage()).toContain("--fscache DIR");
    expect(usage()).not.toContain("hybrid-mode");
  });
});

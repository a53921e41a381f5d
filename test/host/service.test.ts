// SPDX-License-Identifier: Apache-2.0
// `erofsd serve` as a service manager runs it: told its sockets, listened to, stopped. The manager
// is python3, which has the sockets that Node lacks; the real one is in scripts/test-package.

import { type ChildProcess, spawn } from "node:child_process";
import { copyFile, cp, readdir, rm, stat, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ask } from "../../src/control/client.ts";
import { statusAnswer } from "../../src/control/schema.ts";
import { findPackageRoot } from "../../src/platform/package-root.ts";
import { tempDir } from "../support/temp-dir.ts";
import { end, program } from "./support/site.ts";

const timeout = 60_000;
const WATCHDOG_USEC = 600_000;

/** Binds both sockets, starts the service with one of them, and prints what it is told. */
const MANAGER = `
import json, os, socket, subprocess, sys, threading
home, watchdog, kind, *command = sys.argv[1:]
told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
told.bind(home + "/notify")
control = socket.socket(socket.AF_UNIX)
control.bind(home + "/erofsd.sock")
os.chmod(home + "/erofsd.sock", 0o600)
if kind == "listening": control.listen(16)
def say(*words): print(json.dumps(words), flush=True)
pid = os.fork()
if pid == 0:
    os.dup2(control.fileno() if kind == "listening" else os.pipe()[0], 3)
    os.environ.update(NOTIFY_SOCKET=home + "/notify", WATCHDOG_USEC=watchdog,
        WATCHDOG_PID=str(os.getpid()), LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="control")
    os.dup2(2, 1)
    os.execvp(command[0], command)
say("pid", pid)
def listen():
    while True: say("told", *told.recv(65536).decode().split("\\n"))
threading.Thread(target=listen, daemon=True).start()
_, status = os.waitpid(pid, 0)
say("ended", os.waitstatus_to_exitcode(status))
`;

let home: string;
let manager: ChildProcess | undefined;
let pid = 0;

beforeEach(async () => {
  home = await tempDir();
  await writeFile(
    join(home, "config.toml"),
    [
      `[cache]\ndir = "${home}/cache"`,
      `[control]\nsocket = "${home}/erofsd.sock"`,
      '[kernel]\ndoor = "fanotify"',
    ].join("\n"),
  );
});
afterEach(() => {
  if (pid !== 0) process.kill(pid, "SIGKILL");
  manager?.kill("SIGKILL");
});

/** What the manager says, as it says it. */
class Said {
  readonly #lines: string[][] = [];
  #wake: () => void = () => undefined;

  add(text: string): void {
    const line: unknown = JSON.parse(text);
    if (Array.isArray(line)) this.#lines.push(line.map(String));
    this.#wake();
  }

  /** The next line that has `word`; what comes before is skipped. */
  async next(word: string): Promise<string[]> {
    for (;;) {
      const line = this.#lines.shift();
      if (line?.includes(word) === true) return line;
      if (line !== undefined) continue;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

async function start(kind: "listening" | "pipe" = "listening"): Promise<Said> {
  const command = [process.execPath, program, "serve", "--config", join(home, "config.toml")];
  const words = ["-c", MANAGER, home, String(WATCHDOG_USEC), kind, ...command];
  const running = spawn("python3", words, { stdio: ["ignore", "pipe", "ignore"] });
  manager = running;
  const said = new Said();
  createInterface({ input: running.stdout }).on("line", (line) => {
    said.add(line);
  });
  const [, number] = await said.next("pid");
  pid = Number(number);
  return said;
}

const status = () =>
  ask(join(home, "erofsd.sock"), { method: "GET", path: "/v1/status", answer: statusAnswer });

test(
  "it serves on the socket it is given, says so, and leaves the socket when it stops",
  async () => {
    const said = await start();
    // Whoever comes before it is ready waits.
    expect((await status()).pid).toBe(pid);
    expect(await said.next("READY=1")).toContain(
      "STATUS=Serving through fanotify: 0 open, 0 reads waiting",
    );
    await said.next("WATCHDOG=1");
    await said.next("WATCHDOG=1");
    process.kill(pid, "SIGTERM");
    expect(await said.next("STOPPING=1")).toContain("STATUS=Stopping");
    expect(await said.next("ended")).toEqual(["ended", "0"]);
    pid = 0;
    expect((await stat(join(home, "erofsd.sock"))).isSocket()).toBe(true);
  },
  timeout,
);

test(
  "what is passed and is no socket is refused",
  async () => {
    const said = await start("pipe");
    expect(await said.next("ended")).toEqual(["ended", "2"]);
    pid = 0;
  },
  timeout,
);

test(
  "one whose program is damaged says so and ends, so that the manager hears of it",
  async () => {
    const root = fileURLToPath(findPackageRoot());
    await copyFile(join(root, "package.json"), join(home, "package.json"));
    for (const name of ["native", "node_modules"])
      await symlink(join(root, name), join(home, name));
    await cp(join(root, "dist"), join(home, "dist"), { recursive: true });
    // Loaded when it serves already.
    const commands = join(home, "dist/cli");
    for (const name of await readdir(commands))
      if (name.startsWith("registry-")) await rm(join(commands, name));
    const words = ["serve", "--config", join(home, "config.toml")];
    const ended = await end(process.execPath, [join(commands, "erofsd.js"), ...words]);
    expect([ended.code, ended.stderr]).toEqual([1, expect.stringContaining("Cannot find module")]);
    expect(ended.stdout).toContain('"msg":"ready"');
    expect(ended.stdout).toContain('"msg":"stopped"');
  },
  timeout,
);

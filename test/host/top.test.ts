// SPDX-License-Identifier: Apache-2.0
// `erofsd top` beside a daemon that serves: with names of files, on a real terminal, and elsewhere.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { stripVTControlCharacters } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import * as z from "zod";
import { mkfsErofs } from "../support/mkfs.ts";
import { writeHostTree } from "./support/content.ts";
import { Site, must, program } from "./support/site.ts";

const timeout = 120_000;
let site: Site;
let mounted: string;

beforeAll(async () => {
  site = await Site.start();
  const tree = await writeHostTree(site.home);
  const image = join(site.home, "image.erofs");
  await mkfsErofs(image, tree, []);
  mounted = await site.mount(await site.pushRaw(image, "top"));
  // Not all of it: what is complete is watched no longer.
  const input = `if=${join(mounted, "large")}`;
  await must("dd", [input, "of=/dev/null", "bs=4096", "count=9", "skip=500"]);
}, timeout);

afterAll(() => site.stop(), timeout);

test(
  "shows mounts and the slowest reads, in time with the names of their files",
  async () => {
    const asked = ["top", "--json", "--socket", site.daemon.socketPath];
    const words = [
      "--foreground",
      "--preserve-status",
      "-s",
      "INT",
      "8",
      process.execPath,
      program,
      ...asked,
    ];
    const text = await must("timeout", words);
    const last: unknown = JSON.parse(text.trimEnd().split("\n").at(-1) ?? "");
    expect(last).toMatchObject({ waitingReads: 0, mounts: [{ mountPoint: mounted }] });
    expect(text).toContain(`"file":"/large","mountPoint":${JSON.stringify(mounted)}`);
    const once = await site.erofsd(["top", "--once", "--interval", "0.2"]);
    expect(once).toMatch(/^misses /);
    expect(once).toContain("SLOWEST READS");
    expect(once).not.toContain("\u001B");
  },
  timeout,
);

test(
  "on a terminal it leaves all as it was when Ctrl-C ends it, and follows its size",
  async () => {
    const script = join(site.home, "terminal.py");
    await writeFile(script, TERMINAL);
    const args = [script, process.execPath, program, "top", "--interval", "0.2"];
    const out = await must("python3", [...args, "--socket", site.daemon.socketPath]);
    const { status, small, text } = ended.parse(JSON.parse(out));
    expect(status).toBe(0);
    expect(text.startsWith("\u001B[?1049h\u001B[?25l")).toBe(true);
    expect(text.endsWith("\u001B[?25h\u001B[?1049l")).toBe(true);
    // After the terminal became smaller no line is wider.
    const lines = small.split("\u001B[H").at(-2)?.split("\n") ?? [];
    expect(lines.length).toBeGreaterThan(1);
    expect(lines.length).toBeLessThanOrEqual(6);
    const wide = lines.map((line) => stripVTControlCharacters(line).trim().length);
    expect(Math.max(...wide)).toBeLessThanOrEqual(30);
  },
  timeout,
);

const ended = z.object({ status: z.number(), small: z.string(), text: z.string() });

/** Runs its arguments on a terminal, makes that smaller, and types Ctrl-C. */
const TERMINAL = `
import fcntl, json, os, pty, select, struct, sys, termios, time
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
size = lambda rows, columns: fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
size(24, 80)
def read(until):
    got = b""
    end = time.time() + 30
    while time.time() < end and not until(got):
        if select.select([fd], [], [], 0.2)[0]:
            try:
                piece = os.read(fd, 65536)
            except OSError:
                break
            if not piece:
                break
            got += piece
    return got
first = read(lambda got: got.count(b"SLOWEST") >= 2)
size(6, 30)
small = read(lambda got: got.count(b"\\x1b[H") >= 6)
os.write(fd, b"\\x03")
last = read(lambda got: False)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
text = (first + small + last).decode().replace("\\r\\n", "\\n").replace("^C", "")
print(json.dumps({"status": status, "small": small.decode().replace("\\r\\n", "\\n"), "text": text}))
`;

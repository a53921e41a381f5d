// SPDX-License-Identifier: Apache-2.0
// Parts of the benchmark that are programs of their own: start-up, chunk maps, a guest. Their
// tables are shown as they come; the line of JSON behind each goes into the report.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import * as z from "zod";
import { findPackageRoot } from "../../src/platform/package-root.ts";
import type { Report } from "./report.ts";

const results = z.looseObject({ where: z.string(), node: z.string() });

const root = fileURLToPath(findPackageRoot());
const compiled = (name: string): string => fileURLToPath(new URL(name, import.meta.url));

export async function benchStart(report: Report): Promise<void> {
  report.heading("start-up and idle memory");
  await runProgram(report, "start", [process.execPath, compiled("host-start.js")]);
}

export async function benchMaps(report: Report): Promise<void> {
  report.heading("chunk maps");
  await runProgram(report, "maps", [process.execPath, compiled("chunk-map.js")]);
}

/** In a guest: the first mount and a sequential read, through the kernel. */
export async function benchGuest(report: Report, kernel: string): Promise<void> {
  report.heading(`${kernel}: first mount, sequential read`);
  const images = (await capture([`${root}scripts/lib/test-images`])).trim();
  const program = [process.execPath, compiled("guest-sequential.js"), "full", images];
  const guest = [`${root}scripts/guest/run`, "--kernel", kernel, "--limit", "900", "--"];
  await runProgram(report, "guest", [...guest, ...program]);
}

async function runProgram(report: Report, part: string, command: readonly string[]): Promise<void> {
  await capture(command, (line) => {
    if (!line.startsWith("{")) {
      console.log(line);
      return;
    }
    const { where, node: _, ...values } = results.parse(JSON.parse(line));
    for (const [name, value] of Object.entries(values)) {
      if (typeof value === "number")
        report.keep({ part, name: `${where}: ${name}`, value, unit: "" });
    }
  });
}

/** Resolves with what it prints. Rejects when it fails. */
export async function capture(
  command: readonly string[],
  onLine: (line: string) => void = () => undefined,
): Promise<string> {
  const [program = "", ...args] = command;
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"], cwd: root });
  const lines: string[] = [];
  const ended = once(child, "exit");
  for await (const line of createInterface({ input: child.stdout })) {
    lines.push(line);
    onLine(line);
  }
  await ended;
  if (child.exitCode !== 0) throw new Error(`${program} failed (${child.exitCode})`);
  return lines.join("\n");
}

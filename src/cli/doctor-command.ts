// SPDX-License-Identifier: Apache-2.0
// `erofsd doctor`: what this machine can do for erofsd, what is missing, and how to get it.

import pino from "pino";
import { examine } from "../doctor/examine.ts";
import type { Report } from "../doctor/report.ts";
import { type Output, type Style, jsonLine, printable, styleOf, table } from "./output.ts";

/**
 * Prints what it finds. Fails as `erofsd serve` would with this configuration, on this machine:
 * config_invalid, no_door, or the fault of the door that is configured.
 */
export async function doctorCommand(
  given: {
    readonly configPath: string | undefined;
    readonly socketPath: string | undefined;
    readonly json: boolean;
  },
  output: Output = process.stdout,
): Promise<void> {
  const { configPath, socketPath } = given;
  // What the doors log of a trial is in what they fail with.
  const log = pino({ level: "silent" });
  const report = await examine({ configPath, socketPath, log });
  output.write(given.json ? jsonLine(plain(report)) : describe(report, styleOf(output)));
  if (report.fault !== undefined) throw report.fault;
}

function plain({ kernel, doors, findings, chosen, fault }: Report): object {
  return {
    kernel,
    chosen,
    doors: doors.map(({ fault: why, ...door }) => ({ ...door, code: why?.fault.code })),
    findings,
    ...(fault === undefined ? {} : { problem: { code: fault.fault.code, message: fault.message } }),
  };
}

function describe({ kernel, doors, findings, chosen }: Report, style: Style): string {
  const verdict = (text: string, isBad: boolean): string => (isBad ? style.bad(text) : text);
  const doorRows = doors.map(({ door, works, detail }) => [
    door,
    works ? (door === chosen ? "yes, used" : "yes") : "no",
    detail,
  ]);
  const rows = findings.map(({ what, verdict: how, detail }) => [what, how, detail]);
  const advice = [
    ...doors.flatMap(({ door, works, fix, missingOptions }) => {
      if (works) return [];
      const options = missingOptions ?? [];
      const lacks = options.length > 0 ? [`${door}: this kernel lacks ${options.join(", ")}`] : [];
      return [...lacks, ...(fix === undefined ? [] : [`${door}: ${fix}`])];
    }),
    ...findings.flatMap(({ what, fix }) => (fix === undefined ? [] : [`${what}: ${fix}`])),
  ];
  const conclusion =
    chosen === undefined
      ? verdict("`erofsd serve` finds no door here", true)
      : `\`erofsd serve\` uses ${chosen}`;
  return [
    `Linux ${kernel}\n\n`,
    table(["DOOR", "WORKS", "WHAT WAS FOUND"], doorRows, style),
    "\n",
    table(["PART", "STATE", "WHAT WAS FOUND"], rows, style),
    `\n${conclusion}\n`,
    ...advice.map((line) => `  ${printable(line)}\n`),
  ].join("");
}

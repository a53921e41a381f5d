// SPDX-License-Identifier: Apache-2.0
// Sizes and durations as people write them in a config: "1MiB", "250ms", "15s".

import * as z from "zod";
import { KIB, MIB } from "../units.ts";

const SIZE_UNITS: Readonly<Record<string, number>> = { B: 1, KiB: KIB, MiB: MIB, GiB: KIB * MIB };
const DURATION_UNITS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
};

type Units = Readonly<Record<string, number>>;

/** Which schemas are quantities, and with which units: for showing them as people write them. */
export const quantityUnits = z.registry<{ readonly units: Units }>();

/** A quantity as people write it, in the largest unit that divides it: 1048576 is "1MiB". */
export function writeQuantity(value: number, units: Units): string {
  const fitting = Object.entries(units).filter(([, factor]) => value % factor === 0);
  const [unit, factor] = fitting.reduce((a, b) => (value !== 0 && b[1] > a[1] ? b : a));
  return `${value / factor}${unit}`;
}

/** A size in bytes between `min` and `max`, written with its unit: "64KiB". */
export function bytes(min: string, max: string) {
  return quantity("a size", SIZE_UNITS, { min, max, example: "1MiB" });
}

/** A duration in milliseconds between `min` and `max`, written with its unit: "15s". */
export function milliseconds(min: string, max: string) {
  return quantity("a duration", DURATION_UNITS, { min, max, example: "15s" });
}

function quantity(
  what: string,
  units: Units,
  range: { min: string; max: string; example: string },
) {
  const min = parseQuantity(range.min, units) ?? 0;
  const max = parseQuantity(range.max, units) ?? 0;
  const schema = z
    .string({ error: `${what} as text, for example "${range.example}"` })
    .transform((text, context) => {
      const value = parseQuantity(text, units);
      if (value === undefined) {
        const known = Object.keys(units).join(", ");
        context.addIssue(`"${text}" is not ${what}: write a number and one of ${known}`);
        return z.NEVER;
      }
      if (value < min || value > max) {
        context.addIssue(`${text} is not between ${range.min} and ${range.max}`);
        return z.NEVER;
      }
      return value;
    });
  quantityUnits.add(schema, { units });
  return schema;
}

function parseQuantity(text: string, units: Units): number | undefined {
  const [, digits, unit] = /^(\d+(?:\.\d+)?)\s*([A-Za-z]+)$/.exec(text) ?? [];
  const factor = unit === undefined ? undefined : units[unit];
  if (digits === undefined || factor === undefined) return undefined;
  const value = Number(digits) * factor;
  return Number.isSafeInteger(value) ? value : undefined;
}

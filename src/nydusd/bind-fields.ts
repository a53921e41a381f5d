// SPDX-License-Identifier: Apache-2.0
// Reading typed fields out of parsed JSON, with the words nydusd's own parser has for what is
// missing or of another type. By hand: a schema library takes longer to load than this daemon.

export type Json = Readonly<Record<string, unknown>>;

/** Becomes ParseBody: the body's shape is not as it must be. */
export class FieldError extends Error {
  override readonly name = "FieldError";
}

export function isJson(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function objectOf(value: unknown, expected: string): Json {
  if (isJson(value)) return value;
  throw new FieldError(`invalid type: ${kindOf(value)}, expected ${expected}`);
}

export function requiredText(from: Json, name: string): string {
  if (!(name in from)) throw new FieldError(`missing field \`${name}\``);
  return textOf(from[name], name) ?? "";
}

/** undefined when it is absent or null; an empty one stays empty. */
export function optionalText(from: Json, name: string): string | undefined {
  return textOf(from[name], name);
}

function textOf(value: unknown, name: string): string | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value === "string") return value;
  throw new FieldError(`invalid type: ${kindOf(value)}, expected a string at \`${name}\``);
}

export function requiredNumber(from: Json, name: string): number {
  if (!(name in from)) throw new FieldError(`missing field \`${name}\``);
  return numberOf(from, name, 0);
}

export function numberOf(from: Json, name: string, otherwise: number): number {
  const value = from[name];
  if (value === undefined || value === null) return otherwise;
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return value;
  throw new FieldError(`invalid type: ${kindOf(value)}, expected a number at \`${name}\``);
}

export function requiredFlag(from: Json, name: string): boolean {
  if (!(name in from)) throw new FieldError(`missing field \`${name}\``);
  return flagOf(from, name, false);
}

export function flagOf(from: Json, name: string, otherwise: boolean): boolean {
  const value = from[name];
  if (value === undefined || value === null) return otherwise;
  if (typeof value === "boolean") return value;
  throw new FieldError(`invalid type: ${kindOf(value)}, expected a boolean at \`${name}\``);
}

export function textsOf(from: Json, name: string): string[] {
  const value = from[name];
  if (value === undefined || value === null) return [];
  if (Array.isArray(value) && value.every((item) => typeof item === "string")) return value;
  throw new FieldError(`invalid type: ${kindOf(value)}, expected strings at \`${name}\``);
}

/** The kind alone: values may be secrets. */
function kindOf(value: unknown): string {
  if (value === null || value === undefined) return "null";
  if (Array.isArray(value)) return "sequence";
  return typeof value === "object" ? "map" : typeof value;
}

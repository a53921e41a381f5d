// SPDX-License-Identifier: Apache-2.0
// The configuration as it may be shown: quantities as people write them, and no secrets. Derived
// from the schema that checks it, so that a new key is shown without a line here.

import * as z from "zod";
import { type Config, configSchema } from "./config.ts";
import { quantityUnits, writeQuantity } from "./quantities.ts";

const REDACTED = "[secret]";

const shownCredential = z.strictObject({
  host: z.string(),
  repository: z.string().optional(),
  username: z.string().optional(),
  password: z.literal(REDACTED).optional(),
  password_file: z.string().optional(),
  token: z.literal(REDACTED).optional(),
  token_file: z.string().optional(),
});

/** What `viewConfig` gives: the sections and keys of the configuration file. */
export const configView = z.strictObject({
  ...viewShape(configSchema.shape),
  registry: z.strictObject({
    ...viewShape(shapeOf(configSchema.shape.registry)),
    credentials: z.array(shownCredential),
  }),
});
export type ConfigView = z.infer<typeof configView>;

/**
 * `config` with its defaults, redacted: passwords and tokens, every header's value, and what a URL
 * has before its `@`. Its text is valid for a configuration file, but for what is redacted.
 */
export function viewConfig(config: Config): ConfigView {
  const sections = Object.entries(config).map(([name, section]) => [
    name,
    name in configSchema.shape ? viewSection(name, section) : section,
  ]);
  const view: unknown = Object.fromEntries(sections);
  return configView.parse(view);
}

function viewSection(name: string, section: object): object {
  const schema = Object.entries(configSchema.shape).find(([known]) => known === name)?.[1];
  const shape = schema === undefined ? {} : shapeOf(schema);
  const entries = Object.entries(section).flatMap(([key, value]: [string, unknown]) => {
    const shown = value === undefined ? undefined : viewValue(key, value, shape[key]);
    return shown === undefined ? [] : [[key, shown] as const];
  });
  return Object.fromEntries(entries);
}

function viewValue(key: string, value: unknown, schema: z.core.$ZodType | undefined): unknown {
  const units = schema === undefined ? undefined : quantityUnits.get(innermost(schema))?.units;
  if (units !== undefined && typeof value === "number") return writeQuantity(value, units);
  if (key === "credentials" && Array.isArray(value)) return value.map(viewCredential);
  if (key === "headers" && typeof value === "object" && value !== null) {
    return Object.fromEntries(Object.keys(value).map((name) => [name, REDACTED]));
  }
  return typeof value === "string" ? withoutUserInfo(value) : value;
}

function viewCredential(entry: Config["registry"]["credentials"][number]): object {
  const { host, repository, username, password, passwordFile, token, tokenFile } = entry;
  const shown = {
    host,
    repository,
    username,
    password: password === undefined ? undefined : REDACTED,
    password_file: passwordFile,
    token: token === undefined ? undefined : REDACTED,
    token_file: tokenFile,
  };
  return Object.fromEntries(Object.entries(shown).filter(([, value]) => value !== undefined));
}

function withoutUserInfo(text: string): string {
  if (!/^https?:/.test(text) || !URL.canParse(text)) return text;
  const url = new URL(text);
  if (url.username === "" && url.password === "" && url.search === "") return text;
  // A query may be a signature.
  const place = `${url.host}${url.pathname}${url.search === "" ? "" : `?${REDACTED}`}`;
  const user = url.username === "" && url.password === "" ? "" : `${REDACTED}@`;
  return `${url.protocol}//${user}${place}`;
}

function viewShape(shape: Readonly<Record<string, z.core.$ZodType>>) {
  return Object.fromEntries(
    Object.entries(shape).map(([key, schema]) => [key, viewSchema(schema)]),
  );
}

function viewSchema(schema: z.core.$ZodType): z.ZodType {
  const inner = innermost(schema);
  if (inner instanceof z.ZodObject) return z.strictObject(viewShape(inner.shape));
  const shown = shownScalar(inner);
  return schema instanceof z.ZodOptional ? shown.optional() : shown;
}

/** Without the checks: what is shown may be redacted. */
function shownScalar(inner: z.core.$ZodType): z.ZodType {
  if (inner instanceof z.ZodNumber) return z.number();
  if (inner instanceof z.ZodBoolean) return z.boolean();
  if (inner instanceof z.ZodArray) return z.array(z.string());
  if (inner instanceof z.ZodRecord) return z.record(z.string(), z.string());
  if (inner instanceof z.ZodEnum) return z.enum(inner.options.map(String));
  return z.string();
}

/** The keys of a section. */
export function shapeOf(schema: z.core.$ZodType): Readonly<Record<string, z.core.$ZodType>> {
  const inner = innermost(schema);
  return inner instanceof z.ZodObject ? inner.shape : {};
}

/** Without what gives a default or allows absence. */
function innermost(schema: z.core.$ZodType): z.core.$ZodType {
  const isWrapper =
    schema instanceof z.ZodDefault ||
    schema instanceof z.ZodPrefault ||
    schema instanceof z.ZodOptional;
  return isWrapper ? innermost(schema.unwrap()) : schema;
}

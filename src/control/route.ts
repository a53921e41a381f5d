// SPDX-License-Identifier: Apache-2.0
// One operation of the control socket: what it takes and gives, as schemas, and what it does. What
// is taken and what is given are both checked with them; openapi.ts describes the same schemas.

import * as z from "zod";
import { DaemonError } from "../errors.ts";
import type { ControlOperations } from "./control-operations.ts";

export const METHODS = ["GET", "POST", "PATCH", "DELETE"] as const;
export type Method = (typeof METHODS)[number];

/** What came with a request, unchecked. */
export interface Asked {
  readonly params: Readonly<Record<string, string>>;
  readonly query: URLSearchParams;
  /** Undefined when there is none. */
  readonly body: string | undefined;
}

/** An answer with status 200; a text that comes in pieces goes on until its end. */
export interface Answer {
  readonly contentType: string;
  readonly text: string | Uint8Array | AsyncIterable<string>;
}

/** One that is all there; as bytes it may be given again and again. */
export interface TextAnswer extends Answer {
  readonly text: string | Uint8Array;
}

interface Head {
  readonly method: Method;
  /** `{name}` stands for one percent-encoded segment. */
  readonly path: string;
  /** The operationId: a verb and a noun. */
  readonly id: string;
  readonly summary: string;
  /** Where bodies are longer than those of others. */
  readonly bodyBytesMax?: number;
}

interface Takes<P extends z.ZodObject, Q extends z.ZodObject, B extends z.ZodType> {
  readonly params: P;
  readonly query: Q;
  readonly body: B;
}

interface Checked<P extends z.ZodObject, Q extends z.ZodObject, B extends z.ZodType> {
  readonly params: z.output<P>;
  readonly query: z.output<Q>;
  readonly body: z.output<B>;
}

export interface Route extends Head {
  readonly takes: Takes<z.ZodObject, z.ZodObject, z.ZodType>;
  /** The media type of the answer, and of a JSON one its shape. */
  readonly gives: {
    readonly contentType: string;
    readonly schema: z.ZodType | undefined;
    /** Of the `data:` of Server-Sent Events that are not those of /v1/events. */
    readonly event?: z.ZodType | undefined;
  };
  /** Rejects with a DaemonError: request_invalid, or what the operation fails with. */
  respond(operations: ControlOperations, asked: Asked, gone: AbortSignal): Promise<Answer>;
}

const JSON_TYPE = "application/json";
const nothing = z.strictObject({});

/** For operations without parameters. */
export const TAKES_NOTHING = { params: nothing, query: nothing, body: z.undefined() };

/** An operation that gives JSON. An answer that is not as `answer` says is a bug of ours. */
export function jsonRoute<
  P extends z.ZodObject,
  Q extends z.ZodObject,
  B extends z.ZodType,
  A extends z.ZodType<object>,
>(
  head: Head,
  takes: Takes<P, Q, B>,
  answer: A,
  run: (
    operations: ControlOperations,
    asked: Checked<P, Q, B>,
    gone: AbortSignal,
  ) => z.input<A> | Promise<z.input<A>>,
): Route {
  return {
    ...head,
    takes,
    gives: { contentType: JSON_TYPE, schema: answer },
    async respond(operations, asked, gone) {
      const given = await run(operations, checkedAll(takes, asked), gone);
      return jsonAnswer(answer.parse(given));
    },
  };
}

/** An operation whose answer is JSON text already, as `answer` says. */
export function writtenRoute(
  head: Head,
  answer: z.ZodType<object>,
  run: (operations: ControlOperations) => Promise<TextAnswer>,
): Route {
  return {
    ...head,
    takes: TAKES_NOTHING,
    gives: { contentType: JSON_TYPE, schema: answer },
    async respond(operations, asked) {
      checkedAll(TAKES_NOTHING, asked);
      return run(operations);
    },
  };
}

/** An operation that gives text of its own kind, maybe in pieces. */
export function textRoute<P extends z.ZodObject, Q extends z.ZodObject, B extends z.ZodType>(
  head: Head & { readonly contentType: string; readonly event?: z.ZodType },
  takes: Takes<P, Q, B>,
  run: (
    operations: ControlOperations,
    asked: Checked<P, Q, B>,
    gone: AbortSignal,
  ) => Answer | Promise<Answer>,
): Route {
  const { contentType, event, ...rest } = head;
  return {
    ...rest,
    takes,
    gives: { contentType, schema: undefined, event },
    respond: async (operations, asked, gone) => run(operations, checkedAll(takes, asked), gone),
  };
}

/** `body` as the text of an answer, with a line's end for whoever looks at it with curl. */
export function jsonAnswer(body: object): TextAnswer & { readonly text: string } {
  return { contentType: JSON_TYPE, text: `${JSON.stringify(body)}\n` };
}

function checkedAll<P extends z.ZodObject, Q extends z.ZodObject, B extends z.ZodType>(
  takes: Takes<P, Q, B>,
  asked: Asked,
): Checked<P, Q, B> {
  return {
    params: checked(takes.params, asked.params),
    query: checked(takes.query, queryObject(takes.query, asked.query)),
    body: checked(takes.body, bodyValue(takes.body, asked.body)),
  };
}

/** A parameter that may be repeated is an array, also when it is given once. */
function queryObject(schema: z.ZodObject, query: URLSearchParams): unknown {
  const entries = [...new Set(query.keys())].map((name) => {
    const values = query.getAll(name);
    if (isRepeatable(schema, name)) return [name, values] as const;
    if (values.length > 1) throw invalid(name, `given ${values.length} times`);
    return [name, values[0]] as const;
  });
  return Object.fromEntries(entries);
}

/** True for query parameters that may be given more than once. */
export function isRepeatable(schema: z.ZodObject, name: string): boolean {
  const field = fieldsOf(schema).get(name);
  return (field instanceof z.ZodOptional ? field.unwrap() : field) instanceof z.ZodArray;
}

/** The fields of an object's schema, by name. */
export function fieldsOf(schema: z.ZodObject): ReadonlyMap<string, z.core.$ZodType> {
  const shape: Readonly<Record<string, z.core.$ZodType>> = schema.shape;
  return new Map(Object.entries(shape));
}

function bodyValue(schema: z.ZodType, text: string | undefined): unknown {
  if (schema instanceof z.ZodUndefined) {
    if (text === undefined) return undefined;
    throw invalid("body", "this operation takes none");
  }
  try {
    return JSON.parse(text ?? "");
  } catch {
    // The reason would quote the text, which may be a password.
    throw invalid("body", text === undefined ? "there is none" : "it is not JSON");
  }
}

function checked<T extends z.ZodType>(schema: T, value: unknown): z.output<T> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  if (issue?.code === "unrecognized_keys") {
    const name = [...issue.path, ...issue.keys.slice(0, 1)].map(String).join(".");
    throw invalid(name.slice(0, FIELD_LENGTH_MAX), "unknown field");
  }
  throw invalid(issue?.path.map(String).join(".") || "body", issue?.message ?? "not as expected");
}

/** Of what a client called a field. */
const FIELD_LENGTH_MAX = 100;

function invalid(field: string, detail: string): DaemonError {
  return new DaemonError({ code: "request_invalid", field, detail });
}

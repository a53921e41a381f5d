// SPDX-License-Identifier: Apache-2.0
// The OpenAPI 3.1 description of the control socket, made of the schemas that check what comes and
// goes. Source: OpenAPI Specification 3.1.1; its schemas are JSON Schema 2020-12, which zod writes.

import * as z from "zod";
import { eventData } from "./image-schema.ts";
import { type Route, fieldsOf, isRepeatable } from "./route.ts";
import { failure } from "./schema.ts";

const ERROR = "#/components/schemas/Error";
const EVENT = "#/components/schemas/Event";

export interface OpenApiDocument {
  readonly openapi: string;
  readonly info: object;
  readonly paths: Readonly<Record<string, Readonly<Record<string, object>>>>;
  readonly components: {
    readonly schemas: Readonly<Record<string, object>>;
    readonly securitySchemes: Readonly<Record<string, object>>;
  };
  readonly security: readonly object[];
}

/** `routes` as an OpenAPI 3.1 document; `version` is the daemon's. */
export function openApiDocument(routes: readonly Route[], version: string): OpenApiDocument {
  const paths: Record<string, Record<string, object>> = {};
  for (const route of routes) {
    const path = (paths[route.path] ??= {});
    path[route.method.toLowerCase()] = operationOf(route);
  }
  return {
    openapi: "3.1.1",
    info: {
      title: "erofsd control socket",
      version,
      description:
        "HTTP/1.1 on a unix socket that root alone may use, and, where control.listen is set, on a loopback port: there every request needs the token.",
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
    paths,
    components: {
      schemas: { Error: schemaOf(failure, "output"), Event: schemaOf(eventData, "output") },
      securitySchemes: {
        token: { type: "http", scheme: "bearer", description: "What control.token_file holds." },
      },
    },
    // Nothing on the unix socket, the token over TCP.
    security: [{}, { token: [] }],
  };
}

function operationOf({ id, summary, takes, gives }: Route): object {
  const parameters = [...parametersOf("path", takes.params), ...parametersOf("query", takes.query)];
  const takesBody = !(takes.body instanceof z.ZodUndefined);
  return {
    operationId: id,
    summary,
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(takesBody
      ? { requestBody: { required: true, content: jsonContent(schemaOf(takes.body, "input")) } }
      : {}),
    responses: {
      200: { description: "done", content: contentOf(gives) },
      default: {
        description: "it failed: the error says why",
        content: jsonContent({ $ref: ERROR }),
      },
    },
  };
}

function contentOf({ contentType, schema, event }: Route["gives"]): object {
  if (schema !== undefined) return { [contentType]: { schema: schemaOf(schema, "output") } };
  // OpenAPI 3.1 has no words for a stream's items; each event's `data:` has this shape.
  const data = event === undefined ? { $ref: EVENT } : schemaOf(event, "output");
  const items = contentType === "text/event-stream" ? { "x-event-data": data } : {};
  return { [contentType]: { schema: { type: "string" }, ...items } };
}

function parametersOf(place: "path" | "query", schema: z.ZodObject): object[] {
  return [...fieldsOf(schema)].map(([name, field]) => {
    const isOptional = field instanceof z.ZodOptional;
    const repeated = isRepeatable(schema, name) ? { style: "form", explode: true } : {};
    return {
      name,
      in: place,
      required: !isOptional,
      schema: schemaOf(field, "input"),
      ...repeated,
    };
  });
}

function jsonContent(schema: object): object {
  return { "application/json": { schema } };
}

function schemaOf(schema: z.core.$ZodType, io: "input" | "output"): object {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { target: "draft-2020-12", io });
  return rest;
}

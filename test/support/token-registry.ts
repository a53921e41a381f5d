// SPDX-License-Identifier: Apache-2.0
// A registry with its token service on one scripted server, and a source of credentials that
// gives what it is told to.

import type {
  CredentialSource,
  Wanted,
} from "../../src/source/registry/credentials/credential-source.ts";
import { type Credentials, Grant } from "../../src/source/registry/credentials/grant.ts";
import { CONTENT, type ClientFixture } from "./registry-client.ts";
import { type Respond, type ScriptedRequest, response, rightAnswer } from "./scripted-server.ts";

/** Gives what it is told to, and remembers what it was asked. */
export class Given implements CredentialSource {
  generation = 0;
  credentials: Credentials | undefined;
  readonly asked: Wanted[] = [];

  constructor(credentials?: Credentials) {
    this.credentials = credentials;
  }

  find(wanted: Wanted): Promise<Grant | undefined> {
    this.asked.push(wanted);
    return Promise.resolve(this.credentials && new Grant(this.credentials));
  }
}

export const alice = (password: string) => ({ username: "alice", password });

export interface Service {
  /** The Authorization header of a GET that buys a token; undefined: none is wanted. */
  basic?: string | undefined;
  /** The identity token that a POST buys one with. */
  identity?: string;
  /** What a POST is answered when there is no identity token here. */
  noPost?: number;
  /** Further fields of the answer. */
  fields?: () => object;
  headers?: Readonly<Record<string, string>>;
  /** Only the last of them opens the registry. */
  issued: number;
}

export function begin(service: Omit<Service, "issued">): Service {
  return { ...service, issued: 0 };
}

/** A registry with its token service at /token; `serve` answers who has the last token. */
export function guarded(
  service: Service,
  serve: Respond = (request, socket) => socket.write(rightAnswer(request, CONTENT)),
): Respond {
  return (request, socket) => {
    if (request.path.startsWith("/token")) {
      socket.write(tokenAnswer(service, request));
    } else if (
      service.issued > 0 &&
      request.headers.get("authorization") === `Bearer issued${service.issued}`
    ) {
      serve(request, socket);
    } else {
      const realm = `http://${request.headers.get("host")}/token`;
      const scope = "repository:team/app:pull";
      const challenge = `Bearer realm="${realm}",service="s",scope="${scope}"`;
      socket.write(response(401, { "www-authenticate": challenge }));
    }
  };
}

function tokenAnswer(service: Service, { method, headers, body }: ScriptedRequest): Buffer {
  if (method === "POST") {
    if (service.noPost !== undefined) return response(service.noPost);
    const form = new URLSearchParams(body);
    if (form.get("refresh_token") !== service.identity) return response(400);
  } else if (headers.get("authorization") !== service.basic) {
    return response(401);
  }
  service.issued += 1;
  const answer = { access_token: `issued${service.issued}`, ...service.fields?.() };
  return response(200, service.headers, Buffer.from(JSON.stringify(answer)));
}

export function tokenRequests({ server }: ClientFixture): readonly ScriptedRequest[] {
  return server.requests.filter(({ path }) => path.startsWith("/token"));
}

// SPDX-License-Identifier: Apache-2.0
// How credentials become tokens, against real servers: what is sent where, how often, and what
// happens when it is refused.
import { describe, expect, it } from "vitest";
import { AccessBook } from "../../../../../src/source/registry/access.ts";
import { FirstOf } from "../../../../../src/source/registry/credentials/credential-source.ts";
import type {
  CredentialSource,
  Wanted,
} from "../../../../../src/source/registry/credentials/credential-source.ts";
import {
  type Credentials,
  Grant,
  basicAuthorization,
} from "../../../../../src/source/registry/credentials/grant.ts";
import { PushedCredentials } from "../../../../../src/source/registry/credentials/pushed.ts";
import { sameBytes } from "../../../../support/bytes.ts";
import { FakeClock } from "../../../../support/fake-clock.ts";
import { CONTENT, type ClientFixture, startClient } from "../../../../support/registry-client.ts";
import {
  type Respond,
  type ScriptedRequest,
  response,
  rightAnswer,
} from "../../../../support/scripted-server.ts";

const EXTENT = { offset: 10, length: 500 };
const WANTED = CONTENT.subarray(10, 510);

/** Gives what it is told to, and remembers what it was asked. */
class Given implements CredentialSource {
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

const alice = (password: string) => ({ username: "alice", password });

interface Service {
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

function begin(service: Omit<Service, "issued">): Service {
  return { ...service, issued: 0 };
}

/** A registry with its token service at /token; `serve` answers who has the last token. */
function guarded(
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

function tokenRequests({ server }: ClientFixture): readonly ScriptedRequest[] {
  return server.requests.filter(({ path }) => path.startsWith("/token"));
}

describe("credentials", () => {
  it("are asked for with the registry's host, and only when a token is needed", async () => {
    const credentials = new Given(alice("one"));
    const service = begin({ basic: basicAuthorization("alice", "one") });
    await using client = await startClient(guarded(service), { credentials });
    for (const _ of [1, 2, 3]) expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
    expect(credentials.asked).toHaveLength(1);
    const { host } = client.server;
    expect(credentials.asked[0]).toMatchObject({ host, repository: "team/app" });
    const [request] = tokenRequests(client);
    const query = new URL(request?.path ?? "", "http://x").searchParams;
    expect(query.get("account")).toBe("alice");
  });

  it("of a public repository that needs no token are not asked for at all", async () => {
    const credentials = new Given(alice("one"));
    const serve: Respond = (request, socket) => socket.write(rightAnswer(request, CONTENT));
    await using client = await startClient(serve, { credentials });
    await client.read(EXTENT);
    expect(credentials.asked).toEqual([]);
  });

  it("of the repository's own profile win, even when it has none", async () => {
    const access = new AccessBook();
    const credentials = new Given(alice("one"));
    const service = begin({ basic: basicAuthorization("alice", "profile") });
    await using client = await startClient(guarded(service), { access, credentials });
    access.set(client.server.host, "team/app", { credentials: alice("profile") });
    await client.read(EXTENT);
    access.set(client.server.host, "team/app", {});
    expect((await client.readFault(EXTENT)).fault.code).toBe("registry_unauthorized");
    expect(credentials.asked).toEqual([]);
  });

  it("that were changed buy a new token in the middle of a request", async () => {
    const credentials = new Given(alice("one"));
    const service = begin({ basic: basicAuthorization("alice", "one") });
    await using client = await startClient(guarded(service), { credentials });
    await client.read(EXTENT);
    // The password is rotated, and the token it bought revoked.
    service.basic = basicAuthorization("alice", "two");
    service.issued += 1;
    const find = credentials.find.bind(credentials);
    credentials.find = (wanted) => {
      // A source that remembers gives the old one until it hears that it is refused.
      if (wanted.refused !== undefined) credentials.credentials = alice("two");
      return find(wanted);
    };
    expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
    expect(tokenRequests(client).map(({ headers }) => headers.get("authorization"))).toEqual([
      basicAuthorization("alice", "one"),
      basicAuthorization("alice", "one"),
      basicAuthorization("alice", "two"),
    ]);
    expect(client.observed.failures).toEqual([]);
  });

  it("that are refused twice are not tried again and again", async () => {
    let count = 0;
    const credentials: CredentialSource = {
      generation: 0,
      find: () => Promise.resolve(new Grant(alice(`wrong${(count += 1)}`))),
    };
    const service = begin({ basic: basicAuthorization("alice", "right") });
    await using client = await startClient(guarded(service), { credentials });
    expect((await client.readFault(EXTENT)).fault).toMatchObject({
      code: "registry_unauthorized",
      status: 401,
    });
    expect(tokenRequests(client)).toHaveLength(2);
  });

  it("that are a changed password count with a Basic challenge, too", async () => {
    const credentials = new Given(alice("one"));
    let right = basicAuthorization("alice", "one");
    await using client = await startClient(
      (request, socket) => {
        if (request.headers.get("authorization") === right) {
          socket.write(rightAnswer(request, CONTENT));
        } else socket.write(response(401, { "www-authenticate": 'Basic realm="x"' }));
      },
      { credentials },
    );
    await client.read(EXTENT);
    right = basicAuthorization("alice", "two");
    credentials.credentials = alice("two");
    expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
    expect(credentials.asked.map(({ refused }) => refused?.basicAuthorization)).toEqual([
      undefined,
      basicAuthorization("alice", "one"),
    ]);
    right = "";
    expect((await client.readFault(EXTENT)).fault.code).toBe("registry_unauthorized");
    // One request with the password that was right, none with it again.
    expect(client.server.requests).toHaveLength(5);
  });

  it("that are a token are sent as they are, whatever the challenge", async () => {
    const credentials = new Given({ bearer: "given" });
    await using client = await startClient(
      (request, socket) => {
        if (request.headers.get("authorization") === "Bearer given") {
          socket.write(rightAnswer(request, CONTENT));
        } else socket.write(response(401, { "www-authenticate": "Bearer realm=x" }));
      },
      { credentials },
    );
    await client.read(EXTENT);
    await client.read(EXTENT);
    expect(client.server.requests).toHaveLength(3);
    expect(tokenRequests(client)).toEqual([]);
  });
});

describe("credentials given at run time", () => {
  it("count at once, and so does their being taken back", async () => {
    const pushed = new PushedCredentials();
    const credentials = new FirstOf([pushed]);
    const service = begin({ basic: basicAuthorization("alice", "one") });
    await using client = await startClient(guarded(service), { credentials });
    const { host } = client.server;
    expect((await client.readFault(EXTENT)).fault.code).toBe("registry_unauthorized");
    pushed.set(host, "team", alice("one"));
    expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
    // The same again changes nothing.
    pushed.set(host, "team", alice("one"));
    await client.read(EXTENT);
    expect(service.issued).toBe(1);
    service.basic = basicAuthorization("bob", "two");
    pushed.set(host, "team/app", { username: "bob", password: "two" });
    await client.read(EXTENT);
    expect(service.issued).toBe(2);
    expect(pushed.delete(host, "team/app")).toBe(true);
    expect((await client.readFault(EXTENT)).fault.code).toBe("registry_unauthorized");
  });
});

describe("an identity token", () => {
  const identity = { identityToken: "id1", username: "alice" };

  it("buys tokens by POST, and is replaced when the service gives another", async () => {
    const credentials = new PushedCredentials();
    const clock = new FakeClock();
    const service = begin({ identity: "id1", fields: () => ({ refresh_token: "id2" }) });
    const source = new FirstOf([credentials]);
    await using client = await startClient(guarded(service), { credentials: source, clock });
    credentials.set(client.server.host, undefined, { username: "<token>", password: "id1" });
    await client.read(EXTENT);
    const [request] = tokenRequests(client);
    expect(request?.method).toBe("POST");
    expect(request?.path).toBe("/token");
    expect(request?.headers.get("authorization")).toBeUndefined();
    expect(Object.fromEntries(new URLSearchParams(request?.body))).toEqual({
      grant_type: "refresh_token",
      refresh_token: "id1",
      client_id: "erofsd",
      service: "s",
      scope: "repository:team/app:pull",
    });
    service.identity = "id2";
    await clock.advance(60_000);
    await client.read(EXTENT);
    expect(service.issued).toBe(2);
  });

  it.each([404, 405, 401])(
    "is a password where the service answers a POST with %d",
    async (noPost) => {
      const service = begin({ noPost, basic: basicAuthorization("alice", "id1") });
      const credentials = new Given(identity);
      await using client = await startClient(guarded(service), { credentials });
      expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
      expect(tokenRequests(client).map(({ method }) => method)).toEqual(["POST", "GET"]);
    },
  );

  it("that is refused is refused, and shown to nobody else", async () => {
    const service = begin({ identity: "other", basic: basicAuthorization("alice", "id1") });
    const credentials = new Given(identity);
    await using client = await startClient(guarded(service), { credentials });
    expect((await client.readFault(EXTENT)).fault).toMatchObject({
      code: "registry_unauthorized",
      status: 400,
    });
    expect(tokenRequests(client).map(({ method }) => method)).toEqual(["POST"]);
  });
});

describe("a token's life", () => {
  it.each<[string, object, Readonly<Record<string, string>>, number]>([
    ["from when it came", { expires_in: 300 }, {}, 295_000],
    [
      "from when it was issued, by the service's clock",
      { expires_in: 300, issued_at: "2020-05-05T10:00:00.123456789Z" },
      { date: "Tue, 05 May 2020 10:01:40 GMT" },
      195_123,
    ],
    [
      "from when it came, if it was issued later by that clock",
      { expires_in: 300, issued_at: "2020-05-05T10:00:01Z" },
      { date: "Tue, 05 May 2020 10:00:00 GMT" },
      295_000,
    ],
    ["of a second at least", { expires_in: 300, issued_at: "2020-05-05T10:00:00Z" }, {}, 500],
    ["of a minute when nothing is said", {}, {}, 55_000],
    ["as if nothing were said, when that is wrong", { expires_in: "x", issued_at: 7 }, {}, 55_000],
  ])("counts %s", async (_, fields, headers, usableMs) => {
    const clock = new FakeClock();
    const service = begin({ fields: () => fields, headers });
    await using client = await startClient(guarded(service), { clock });
    await client.read(EXTENT);
    await clock.advance(usableMs - 1);
    await client.read(EXTENT);
    expect(service.issued).toBe(1);
    await clock.advance(1);
    await client.read(EXTENT);
    expect(service.issued).toBe(2);
  });

  it("may end for many readers at once: one token is fetched, and all go on", async () => {
    const credentials = new Given(alice("one"));
    const service = begin({ basic: basicAuthorization("alice", "one") });
    await using client = await startClient(guarded(service), { credentials });
    await client.read(EXTENT);
    const revoked = service.issued;
    service.issued += 1;
    const reads = await Promise.all(Array.from({ length: 8 }, () => client.read(EXTENT)));
    for (const bytes of reads) expect(sameBytes(bytes, WANTED)).toBe(true);
    expect(service.issued).toBe(revoked + 2);
    expect(credentials.asked).toHaveLength(2);
    expect(client.observed.failures).toEqual([]);
  });

  it("may end in the middle of a range that breaks off: the rest comes with a new one", async () => {
    const service = begin({});
    let hasBroken = false;
    const serve: Respond = (request, socket) => {
      const answer = rightAnswer(request, CONTENT);
      if (hasBroken) {
        socket.write(answer);
        return;
      }
      hasBroken = true;
      // Half of it, then neither the connection nor the token is good any more.
      service.issued += 1;
      socket.end(answer.subarray(0, answer.length - 40_000));
    };
    await using client = await startClient(guarded(service, serve));
    const bytes = await client.read({ offset: 0, length: 90_000 });
    expect(sameBytes(bytes, CONTENT.subarray(0, 90_000))).toBe(true);
    const blobs = client.server.requests.filter(({ path }) => path.startsWith("/v2/"));
    expect(blobs.map(({ headers }) => headers.get("range"))).toEqual([
      "bytes=0-89999",
      "bytes=0-89999",
      "bytes=50000-89999",
      "bytes=50000-89999",
    ]);
    expect(tokenRequests(client)).toHaveLength(2);
    expect(client.observed.failures).toHaveLength(1);
  });
});

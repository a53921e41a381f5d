// SPDX-License-Identifier: Apache-2.0
// How credentials become tokens, against real servers: what is sent where, how often, and what
// happens when it is refused.
import { describe, expect, it } from "vitest";
import { AccessBook } from "../../../../../src/source/registry/access.ts";
import {
  type CredentialSource,
  FirstOf,
} from "../../../../../src/source/registry/credentials/credential-source.ts";
import { Grant, basicAuthorization } from "../../../../../src/source/registry/credentials/grant.ts";
import { PushedCredentials } from "../../../../../src/source/registry/credentials/pushed.ts";
import { sameBytes } from "../../../../support/bytes.ts";
import { FakeClock } from "../../../../support/fake-clock.ts";
import { CONTENT, startClient } from "../../../../support/registry-client.ts";
import {
  type Respond,
  response,
  rightAnswer,
  startScriptedServer,
} from "../../../../support/scripted-server.ts";
import { Given, alice, begin, guarded, tokenRequests } from "../../../../support/token-registry.ts";

const EXTENT = { offset: 10, length: 500 };
const WANTED = CONTENT.subarray(10, 510);

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

describe("a 403", () => {
  /** Takes `right()` alone: 401 for nothing, 403 for something else. */
  function forbidding(right: () => string): Respond {
    return (request, socket) => {
      const sent = request.headers.get("authorization");
      if (sent === right()) socket.write(rightAnswer(request, CONTENT));
      else if (sent !== undefined) socket.write(response(403));
      else socket.write(response(401, { "www-authenticate": 'Basic realm="x"' }));
    };
  }

  it("for what was let in before is its end: the credentials of now are used", async () => {
    const clock = new FakeClock();
    const credentials = new Given(alice("one"));
    let right = basicAuthorization("alice", "one");
    await using client = await startClient(
      forbidding(() => right),
      { credentials, clock },
    );
    await client.read(EXTENT);
    await clock.advance(12 * 3_600_000);
    right = basicAuthorization("alice", "two");
    credentials.credentials = alice("two");
    expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
    expect(client.observed.failures).toEqual([]);
  });

  it("for what was just found is a refusal, and not asked about again", async () => {
    const credentials = new Given(alice("one"));
    await using client = await startClient(
      forbidding(() => "none"),
      { credentials },
    );
    for (const _ of [1, 2]) {
      expect((await client.readFault(EXTENT)).fault).toMatchObject({
        code: "registry_unauthorized",
        status: 403,
      });
    }
    expect(credentials.asked).toHaveLength(1);
    expect(client.server.requests).toHaveLength(3);
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

describe("a kept redirect", () => {
  it("ends with the credentials that opened it", async () => {
    const pushed = new PushedCredentials();
    const credentials = new FirstOf([pushed]);
    const storage = await startScriptedServer((request, socket) =>
      socket.write(rightAnswer(request, CONTENT)),
    );
    const service = begin({ basic: basicAuthorization("alice", "one") });
    const redirect: Respond = (_, socket) =>
      socket.write(response(307, { location: `http://${storage.host}/b?Expires=99999999999` }));
    await using client = await startClient(guarded(service, redirect), { credentials });
    const { host } = client.server;
    pushed.set(host, undefined, alice("one"));
    for (const _ of [1, 2, 3]) expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
    // 401, token, redirect.
    expect(client.server.requests).toHaveLength(3);
    pushed.delete(host, undefined);
    expect((await client.readFault(EXTENT)).fault.code).toBe("registry_unauthorized");
    expect(storage.requests).toHaveLength(3);
    await storage.close();
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

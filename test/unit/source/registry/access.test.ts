// SPDX-License-Identifier: Apache-2.0
import { inspect } from "node:util";
import { describe, expect, it } from "vitest";
import { AccessBook, type AccessProfile } from "../../../../src/source/registry/access.ts";
import { FakeClock } from "../../../support/fake-clock.ts";
import { sameBytes } from "../../../support/bytes.ts";
import { faultOf } from "../../../support/faults.ts";
import { CONTENT, type ClientFixture, startClient } from "../../../support/registry-client.ts";
import {
  type Respond,
  response,
  rightAnswer,
  startScriptedServer,
} from "../../../support/scripted-server.ts";

const EXTENT = { offset: 10, length: 500 };
const WANTED = CONTENT.subarray(10, 510);
const PASSWORD = "the-first-secret";
const OTHER_PASSWORD = "the-other-secret";

const right: Respond = (request, socket) => socket.write(rightAnswer(request, CONTENT));
const alice = (password = PASSWORD) => ({ username: "alice", password });

function basic(password: string): string {
  return `Basic ${Buffer.from(`alice:${password}`).toString("base64")}`;
}

/** Wants `Authorization: <wanted()>`, and challenges with `challenge` for it. */
function guarded(wanted: () => string, challenge: string): Respond {
  return (request, socket) => {
    if (request.headers.get("authorization") === wanted()) right(request, socket);
    else socket.write(response(401, { "www-authenticate": challenge }));
  };
}

/** Hands out tokens, from its own /token, to whoever knows the password. */
function tokenService(state: { password: string; expiresIn?: number }): Respond {
  let issued = 0;
  return (request, socket) => {
    const { headers, path } = request;
    if (path.startsWith("/token")) {
      if (headers.get("authorization") !== basic(state.password)) {
        socket.write(response(401));
        return;
      }
      issued += 1;
      const answer = { token: `issued${issued}`, expires_in: state.expiresIn ?? 300 };
      socket.write(response(200, {}, Buffer.from(JSON.stringify(answer))));
      return;
    }
    const realm = `http://${headers.get("host")}/token`;
    guarded(() => `Bearer issued${issued}`, `Bearer realm="${realm}",service="s"`)(request, socket);
  };
}

function bookFor(client: ClientFixture, profile: AccessProfile, access: AccessBook): void {
  access.set(client.server.host, "team/app", profile);
}

const tokensAsked = ({ server }: ClientFixture): number =>
  server.requests.filter(({ path }) => path.startsWith("/token")).length;

describe("the book", () => {
  it("shows no secret, however it is printed", () => {
    const book = new AccessBook();
    book.set("Registry.example", "app", {
      credentials: alice(),
      proxy: { url: "http://me:proxysecret@proxy:8080", fallback: true, checkIntervalMs: 1 },
    });
    book.set("registry.example", "b", { credentials: { bearer: PASSWORD } });
    const access = book.get("registry.example", "app");
    for (const value of [book, access, book.get("registry.example", "b")]) {
      const texts = [value?.toString(), inspect([value], { depth: 9 }), JSON.stringify([value])];
      expect(texts.join("")).not.toMatch(/secret(?!\])|YWxpY2U/);
    }
    expect(inspect(access)).toContain('"credentials":"[secret]","proxy":"proxy:8080"');
  });

  it("is bounded, replaces, and forgets", () => {
    const book = new AccessBook({ entriesMax: 1 });
    book.set("h", "a", { scheme: "http" });
    book.set("h", "a", { scheme: "https" });
    expect(book.get("h", "a")?.profile.scheme).toBe("https");
    expect(faultOf(() => book.set("h", "b", {})).code).toBe("request_invalid");
    expect([book.delete("h", "a"), book.delete("h", "a")]).toEqual([true, false]);
    book.set("h", "b", {});
  });

  it("gives another version to other credentials only", () => {
    const book = new AccessBook();
    const version = (profile: AccessProfile): number | undefined => {
      book.set("h", "a", profile);
      return book.get("h", "a")?.credentialsVersion;
    };
    const first = version({ credentials: alice() });
    expect(version({ credentials: alice(), skipVerify: true })).toBe(first);
    expect(version({ credentials: alice(OTHER_PASSWORD) })).not.toBe(first);
    expect(version({ credentials: alice() })).not.toBe(first);
  });

  it.each<[string, AccessProfile]>([
    ["credentials", { credentials: { bearer: "a\r\nx: secret" } }],
    ["credentials", { credentials: { username: "a:secret", password: "" } }],
    ["proxy.url", { proxy: { url: "secret", fallback: true, checkIntervalMs: 1 } }],
    ["blob_redirected_host", { blobRedirectedHost: "secret /" }],
  ])("refuses wrong %s without quoting them", (field, profile) => {
    const fault = faultOf(() => new AccessBook().set("h", "a", profile));
    expect(fault).toMatchObject({ code: "request_invalid", field });
    expect(JSON.stringify(fault)).not.toContain("secret");
  });
});

describe("credentials", () => {
  it("are given to the token service, and its token to the registry", async () => {
    const access = new AccessBook();
    await using client = await startClient(tokenService({ password: PASSWORD }), { access });
    bookFor(client, { credentials: alice() }, access);
    expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
    expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
    const sent = client.server.requests.map(({ headers }) => headers.get("authorization"));
    expect(sent).toEqual([undefined, basic(PASSWORD), "Bearer issued1", "Bearer issued1"]);
  });

  it("that the token service refuses name the registry, and no secret", async () => {
    const access = new AccessBook();
    await using client = await startClient(tokenService({ password: PASSWORD }), { access });
    bookFor(client, { credentials: alice(OTHER_PASSWORD) }, access);
    const { fault } = await client.readFault(EXTENT);
    const host = client.server.host;
    const wanted = { code: "registry_unauthorized", host, repository: "team/app", status: 401 };
    expect(fault).toEqual(wanted);
    expect(client.logged.join("")).not.toMatch(/secret/);
    expect(client.server.requests).toHaveLength(2);
  });

  it("that are renewed are used for a new token at once", async () => {
    const access = new AccessBook();
    const state = { password: PASSWORD };
    await using client = await startClient(tokenService(state), { access });
    bookFor(client, { credentials: alice() }, access);
    await client.read(EXTENT);
    state.password = OTHER_PASSWORD;
    await client.read(EXTENT);
    expect(tokensAsked(client)).toBe(1);
    bookFor(client, { credentials: alice(OTHER_PASSWORD) }, access);
    await client.read(EXTENT);
    expect(tokensAsked(client)).toBe(2);
  });

  it("get a new token when the old one has expired", async () => {
    const clock = new FakeClock();
    const access = new AccessBook();
    const service = tokenService({ password: PASSWORD, expiresIn: 60 });
    await using client = await startClient(service, { access, clock });
    bookFor(client, { credentials: alice() }, access);
    await client.read(EXTENT);
    await clock.advance(55_000);
    await client.read(EXTENT);
    expect(tokensAsked(client)).toBe(2);
  });

  it("are sent with each request where that is the challenge, from the second on", async () => {
    const access = new AccessBook();
    const guard = guarded(() => basic(PASSWORD), 'Basic realm="x"');
    await using client = await startClient(guard, { access });
    bookFor(client, { credentials: alice() }, access);
    await client.read(EXTENT);
    await client.read(EXTENT);
    const sent = client.server.requests.map(({ headers }) => headers.get("authorization"));
    expect(sent).toEqual([undefined, basic(PASSWORD), basic(PASSWORD)]);
    bookFor(client, { credentials: alice(OTHER_PASSWORD) }, access);
    expect((await client.readFault(EXTENT)).fault.code).toBe("registry_unauthorized");
  });

  it("that are a token are sent as they are, and renewed in the middle of a request", async () => {
    const access = new AccessBook();
    let wanted = "Bearer one";
    await using client = await startClient(
      (request, socket) => {
        // The token ends, and the next one comes, while this request is on its way.
        if (request.index === 1) {
          wanted = "Bearer two";
          bookFor(client, { credentials: { bearer: "two" } }, access);
        }
        guarded(() => wanted, 'Bearer realm="http://127.0.0.1:1/token"')(request, socket);
      },
      { access },
    );
    bookFor(client, { credentials: { bearer: "one" } }, access);
    await client.read(EXTENT);
    expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
    expect(client.server.requests).toHaveLength(3);
    wanted = "Bearer three";
    expect((await client.readFault(EXTENT)).fault.code).toBe("registry_unauthorized");
    expect(client.server.requests).toHaveLength(4);
  });

  it("do not follow a redirect to another host, which may be replaced", async () => {
    const access = new AccessBook();
    const other = await startScriptedServer(right);
    await using client = await startClient(
      (_, socket) => {
        socket.write(response(307, { location: "https://storage.invalid/blob?sig=1" }));
      },
      { access },
    );
    bookFor(
      client,
      {
        credentials: { bearer: "one" },
        blobUrlScheme: "http",
        blobRedirectedHost: other.host,
      },
      access,
    );
    expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
    expect(client.server.requests[0]?.headers.get("authorization")).toBe("Bearer one");
    expect(other.requests[0]?.headers.get("authorization")).toBeUndefined();
    expect(other.requests[0]?.path).toBe("/blob?sig=1");
    await other.close();
  });
});

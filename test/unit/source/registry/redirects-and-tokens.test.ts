// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import { sameBytes } from "../../../support/bytes.ts";
import { FakeClock } from "../../../support/fake-clock.ts";
import { CONTENT, startClient } from "../../../support/registry-client.ts";
import {
  type Respond,
  type ScriptedRequest,
  response,
  rightAnswer,
  startScriptedServer,
} from "../../../support/scripted-server.ts";

const EXTENT = { offset: 10, length: 500 };
const WANTED = CONTENT.subarray(10, 510);

const right: Respond = (request, socket) => socket.write(rightAnswer(request, CONTENT));

function redirect(location: string, status = 307): Respond {
  return (_, socket) => socket.write(response(status, { location }));
}

function json(value: unknown): Buffer {
  return response(200, {}, new TextEncoder().encode(JSON.stringify(value)));
}

/** A registry whose repositories need a token from its own /token. */
function guarded(options: { expiresIn?: number; realm?: string; prefix?: string } = {}): Respond {
  const { prefix = "secret" } = options;
  let issued = 0;
  return (request, socket) => {
    const host = request.headers.get("host") ?? "";
    if (request.path.startsWith("/token")) {
      issued += 1;
      socket.write(json({ token: `${prefix}${issued}`, expires_in: options.expiresIn ?? 300 }));
    } else if (request.headers.get("authorization") === `Bearer ${prefix}${issued}` && issued > 0) {
      right(request, socket);
    } else {
      const realm = options.realm ?? `http://${host}/token?account=me`;
      const challenge = `Bearer realm="${realm}",service="the registry",scope="repository:team/app:pull"`;
      socket.write(response(401, { "www-authenticate": challenge }));
    }
  };
}

const paths = (requests: readonly ScriptedRequest[]): readonly string[] =>
  requests.map(({ path }) => path.replace(/^\/v2\/.*/, "blob"));

function turn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

describe("redirects", () => {
  it.each([301, 302, 303, 307, 308])("%d is followed, with the range", async (status) => {
    await using client = await startClient((request, socket) => {
      if (request.path === "/elsewhere?sig=1") right(request, socket);
      else redirect("/elsewhere?sig=1", status)(request, socket);
    });
    expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
    expect(client.server.requests[1]?.headers.get("range")).toBe("bytes=10-509");
  });

  it("to another server take the range but not the authorization", async () => {
    const other = await startScriptedServer(right);
    let authorized: string | undefined;
    const guard = guarded();
    await using client = await startClient((request, socket) => {
      if (request.headers.get("authorization") === undefined) guard(request, socket);
      else {
        authorized = request.headers.get("authorization");
        redirect(`http://${other.host}/cdn?sig=1`)(request, socket);
      }
    });
    expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
    expect(authorized).toBe("Bearer secret1");
    expect(other.requests.map(({ headers }) => headers.get("authorization"))).toEqual([undefined]);
    expect(other.requests[0]?.headers.get("range")).toBe("bytes=10-509");
    expect(client.observed.requests.at(-1)).toBe(other.host);
    await other.close();
  });

  it("that go round in a circle end", async () => {
    await using client = await startClient(redirect("/again"), { options: { attemptsMax: 1 } });
    expect((await client.readFault(EXTENT)).fault).toMatchObject({
      code: "registry_protocol",
      detail: "more than 5 redirects",
    });
    expect(client.server.requests).toHaveLength(6);
  });

  it("that lead to a missing blob say so", async () => {
    await using client = await startClient((request, socket) => {
      if (request.path === "/gone") socket.write(response(404));
      else redirect("/gone")(request, socket);
    });
    expect((await client.readFault(EXTENT)).fault.code).toBe("blob_not_found");
  });

  it("to another server that asks for a token are not answered", async () => {
    const other = await startScriptedServer(guarded());
    await using client = await startClient(redirect(`http://${other.host}/cdn`));
    expect((await client.readFault(EXTENT)).fault).toMatchObject({
      code: "registry_unauthorized",
      host: other.host,
    });
    expect(other.requests).toHaveLength(1);
    await other.close();
  });
});

describe("anonymous tokens", () => {
  it("are fetched when asked for and used from then on", async () => {
    await using client = await startClient(guarded());
    expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
    expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
    const [, token, ...blobs] = client.server.requests;
    expect(paths(client.server.requests)).toHaveLength(4);
    const query = new URL(token?.path ?? "", "http://x").searchParams;
    expect(Object.fromEntries(query)).toEqual({
      account: "me",
      service: "the registry",
      scope: "repository:team/app:pull",
    });
    expect(token?.headers.get("authorization")).toBeUndefined();
    expect(blobs.map(({ headers }) => headers.get("authorization"))).toEqual([
      "Bearer secret1",
      "Bearer secret1",
    ]);
    expect(client.observed.failures).toEqual([]);
  });

  it("are fetched once for all who wait", async () => {
    await using client = await startClient(guarded());
    await Promise.all(Array.from({ length: 6 }, () => client.read(EXTENT)));
    const tokens = client.server.requests.filter(({ path }) => path.startsWith("/token"));
    expect(tokens).toHaveLength(1);
  });

  it.each([
    [300, 285_000],
    [20, 11_250],
    [2, 750],
    [0, 375],
  ])("that live %d s are renewed after %d ms by a reader who does not wait", async (lifeS, ms) => {
    const clock = new FakeClock();
    await using client = await startClient(guarded({ expiresIn: lifeS }), { clock });
    const tokenCount = (): number =>
      client.server.requests.filter(({ path }) => path.startsWith("/token")).length;
    await client.read(EXTENT);
    await clock.advance(ms - 1);
    await client.read(EXTENT);
    expect(tokenCount()).toBe(1);
    await clock.advance(1);
    expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
    while (tokenCount() < 2) await turn();
    const sent = client.server.requests.filter(({ path }) => !path.startsWith("/token"));
    expect(sent[3]?.headers.get("authorization")).toBe("Bearer secret1");
    await client.read(EXTENT);
    expect(client.server.requests.at(-1)?.headers.get("authorization")).toBe("Bearer secret2");
    expect(tokenCount()).toBe(2);
  });

  it.each([
    [300, 295_000],
    [2, 1_000],
    [0, 500],
  ])("that live %d s are fetched after %d ms before they are refused", async (lifeS, ms) => {
    const clock = new FakeClock();
    await using client = await startClient(guarded({ expiresIn: lifeS }), { clock });
    await client.read(EXTENT);
    await clock.advance(ms);
    await Promise.all([client.read(EXTENT), client.read(EXTENT)]);
    expect(
      client.server.requests.slice(2).map(({ headers }) => headers.get("authorization")),
    ).toEqual(["Bearer secret1", undefined, "Bearer secret2", "Bearer secret2"]);
  });

  it("that cannot be renewed ahead are used to their end, then asked for as at first", async () => {
    const clock = new FakeClock();
    const guard = guarded();
    let isBroken = false;
    await using client = await startClient(
      (request, socket) => {
        if (isBroken && request.path.startsWith("/token")) socket.write(response(503));
        else guard(request, socket);
      },
      { clock, options: { attemptsMax: 1 } },
    );
    await client.read(EXTENT);
    await clock.advance(290_000);
    isBroken = true;
    for (const _ of [1, 2, 3]) expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
    await clock.advance(5_000);
    expect((await client.readFault(EXTENT)).fault).toMatchObject({
      code: "registry_failed",
      status: 503,
    });
    // Ahead; at the end; after the 401.
    expect(client.server.requests.filter(({ path }) => path.startsWith("/token"))).toHaveLength(4);
    isBroken = false;
    expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
  });

  it("are fetched anew when they are refused", async () => {
    let guard = guarded();
    await using client = await startClient((request, socket) => guard(request, socket));
    await client.read(EXTENT);
    // The server starts again and knows the old token no more.
    guard = guarded({ prefix: "other" });
    expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
    expect(client.observed.failures).toEqual([]);
  });

  it("that do not help are not fetched again and again", async () => {
    await using client = await startClient((request, socket) => {
      if (request.path.startsWith("/token")) socket.write(json({ access_token: "useless" }));
      else {
        const host = request.headers.get("host") ?? "";
        const challenge = `Bearer realm="http://${host}/token"`;
        socket.write(response(401, { "www-authenticate": challenge }));
      }
    });
    expect((await client.readFault(EXTENT)).fault.code).toBe("registry_unauthorized");
    expect(client.server.requests).toHaveLength(3);
    expect(client.server.requests[1]?.path).toContain("scope=repository%3Ateam%2Fapp%3Apull");
  });

  it.each(["http://auth.example/token", "ftp://127.0.0.1/token", "token", ""])(
    "are not asked for at %j",
    async (realm) => {
      await using client = await startClient(guarded({ realm }));
      expect((await client.readFault(EXTENT)).fault.code).toBe("registry_unauthorized");
      expect(client.server.requests).toHaveLength(1);
    },
  );

  it.each<[string, Buffer]>([
    ["is not JSON", response(200, {}, new TextEncoder().encode("secret1"))],
    ["has no token", json({ expires_in: 3 })],
    ["is a way to add headers", json({ token: "a\r\nx: y" })],
    ["is endless", response(200, {}, new Uint8Array(70_000))],
    ["is an error", response(500)],
  ])("are given up when the answer %s", async (_, answer) => {
    const guard = guarded();
    await using client = await startClient(
      (request, socket) => {
        if (request.path.startsWith("/token")) socket.write(answer);
        else guard(request, socket);
      },
      { options: { attemptsMax: 1 } },
    );
    const { fault } = await client.readFault(EXTENT);
    expect(["registry_protocol", "registry_failed"]).toContain(fault.code);
    expect(JSON.stringify(fault)).not.toContain("secret");
  });
});

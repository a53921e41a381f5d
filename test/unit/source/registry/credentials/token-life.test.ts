// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import { basicAuthorization } from "../../../../../src/source/registry/credentials/grant.ts";
import { sameBytes } from "../../../../support/bytes.ts";
import { FakeClock } from "../../../../support/fake-clock.ts";
import { CONTENT, startClient } from "../../../../support/registry-client.ts";
import { type Respond, rightAnswer } from "../../../../support/scripted-server.ts";
import { Given, alice, begin, guarded, tokenRequests } from "../../../../support/token-registry.ts";

const EXTENT = { offset: 10, length: 500 };
const WANTED = CONTENT.subarray(10, 510);

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
    // Before that a reader has it renewed without waiting for it.
    const aheadMs = Math.min(10_000, usableMs / 4);
    await clock.advance(Math.ceil(usableMs - aheadMs) - 1);
    await client.read(EXTENT);
    expect(service.issued).toBe(1);
    await clock.advance(aheadMs + 1);
    await client.read(EXTENT);
    expect(service.issued).toBe(2);
    expect(tokenRequests(client)).toHaveLength(2);
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

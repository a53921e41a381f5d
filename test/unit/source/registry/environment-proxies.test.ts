// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import { EnvironmentProxies } from "../../../../src/source/registry/environment-proxies.ts";
import { sameBytes } from "../../../support/bytes.ts";
import { CONTENT, startClient } from "../../../support/registry-client.ts";
import { response, rightAnswer, startScriptedServer } from "../../../support/scripted-server.ts";

const PROXIES = { HTTP_PROXY: "http://plain.example:1", HTTPS_PROXY: "secure.example:2" };

function proxyFor(url: string, environment: Record<string, string>): string | undefined {
  return new EnvironmentProxies(environment).for(new URL(url))?.host;
}

describe("proxies of the environment", () => {
  it("are of the request's scheme", () => {
    expect(proxyFor("http://a.example/", PROXIES)).toBe("plain.example:1");
    expect(proxyFor("https://a.example/", PROXIES)).toBe("secure.example:2");
    expect(proxyFor("https://a.example/", { HTTP_PROXY: "http://plain.example:1" })).toBe(
      undefined,
    );
  });

  it("may be written in lower case; upper case comes first", () => {
    expect(proxyFor("http://a.example/", { http_proxy: "low.example:1" })).toBe("low.example:1");
    expect(proxyFor("http://a.example/", { ...PROXIES, http_proxy: "low.example:1" })).toBe(
      "plain.example:1",
    );
  });

  it.each([
    ["a.example", "https://a.example/", true],
    ["a.example", "https://b.a.example/", true],
    ["a.example", "https://ba.example/", false],
    [".a.example", "https://a.example/", false],
    [".a.example", "https://b.a.example/", true],
    ["*.a.example", "https://b.a.example/", true],
    ["A.EXAMPLE", "https://a.example/", true],
    ["a.example:443", "https://a.example/", true],
    ["a.example:5000", "https://a.example/", false],
    ["a.example:5000", "https://a.example:5000/", true],
    ["b.example, a.example", "https://a.example/", true],
    ["b.example a.example", "https://a.example/", true],
    ["*", "https://a.example/", true],
    ["10.0.0.0/8", "https://10.1.2.3/", true],
    ["10.0.0.0/8", "https://11.1.2.3/", false],
    ["10.0.0.0/8", "https://ten.example/", false],
    ["192.0.2.1", "https://192.0.2.1:5000/", true],
    ["192.0.2.1:5000", "https://192.0.2.1:5000/", true],
    ["192.0.2.1:5001", "https://192.0.2.1:5000/", false],
    ["fd00::/8", "https://[fd12::1]:5000/", true],
    ["fd00::/8", "https://[fe12::1]:5000/", false],
    ["[fd12::1]:5000", "https://[fd12::1]:5000/", true],
    ["fd12::1", "https://[fd12::1]/", true],
    ["", "https://localhost:5000/", true],
    ["", "https://127.0.0.1/", true],
    ["", "https://[::1]:7/", true],
  ])("with NO_PROXY=%j and %s: straight is %s", (rules, url, straight) => {
    expect(proxyFor(url, { ...PROXIES, no_proxy: rules }) === undefined).toBe(straight);
  });

  it("that make no sense are told, without their values", () => {
    const { problems } = new EnvironmentProxies({
      HTTP_PROXY: "socks5://me:secret@p:1",
      NO_PROXY: "!secret!,10.0.0.0/99",
    });
    expect(problems).toHaveLength(3);
    expect(problems.join()).not.toContain("secret");
    expect(problems[0]).toContain("HTTP_PROXY");
  });

  it("are gone through by requests, and past for loopback", async () => {
    const asked: string[] = [];
    const proxy = await startScriptedServer((request, socket) => {
      asked.push(request.path.replace(/sha256:.*/, "..."));
      const isRight = request.headers.get("proxy-authorization") !== undefined;
      socket.write(isRight ? rightAnswer(request, CONTENT) : response(407));
    });
    const environment = { HTTP_PROXY: `http://me:proxysecret@${proxy.host}` };
    const options = { plainHttp: () => true, attemptsMax: 1 };
    const extent = { offset: 10, length: 500 };
    const host = "registry.invalid:5000";
    await using client = await startClient(
      (request, socket) => socket.write(rightAnswer(request, CONTENT)),
      { environment, options, host },
    );
    expect(sameBytes(await client.read(extent), CONTENT.subarray(10, 510))).toBe(true);
    expect(asked).toEqual(["http://registry.invalid:5000/v2/team/app/blobs/..."]);
    await using near = await startClient(
      (request, socket) => socket.write(rightAnswer(request, CONTENT)),
      { environment },
    );
    await near.read(extent);
    expect(asked).toHaveLength(1);
    expect(near.server.requests).toHaveLength(1);
    await proxy.close();
    const { fault } = await client.readFault(extent);
    expect("detail" in fault ? fault.detail : "").toContain(`through the proxy ${proxy.host}`);
    expect(JSON.stringify([fault, client.logged])).not.toContain("proxysecret");
  });
});

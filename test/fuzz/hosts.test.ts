// SPDX-License-Identifier: Apache-2.0
// What administrators write about hosts: hosts.toml, NO_PROXY, durations.
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { EnvironmentProxies } from "../../src/source/registry/environment-proxies.ts";
import { parseDuration } from "../../src/source/registry/go-duration.ts";
import { planUpstreams } from "../../src/source/registry/host-upstreams.ts";
import { parseHostsFile } from "../../src/source/registry/hosts-file.ts";
import { registryUpstream } from "../../src/source/registry/upstream.ts";
import { fuzzParameters, valueOrFault } from "../support/fuzz.ts";

const FILE = "/certs.d/registry.example/hosts.toml";

/** Pieces of the grammar in any order, which random characters hardly ever make. */
function phrases(words: readonly string[], maxLength: number): fc.Arbitrary<string> {
  const word = fc.oneof(
    { weight: 6, arbitrary: fc.constantFrom(...words) },
    fc.string({ unit: "binary", maxLength: 3 }),
  );
  return fc.array(word, { maxLength }).map((parts) => parts.join(""));
}

describe("a hosts.toml", () => {
  const keys = ["capabilities", "ca", "client", "skip_verify", "override_path", "dial_timeout"];
  const values = [
    '"pull"',
    '["pull", "resolve"]',
    '[["a", "b"], ["c", ""]]',
    "true",
    "7",
    '"1m2s"',
    "{ a = 1 }",
    '"https://a.example:1/v2"',
    '"\\u0000"',
    "1979-05-27",
    "nan",
  ];
  const lines = [
    ...[...keys, "server", "proxy", "header", "host", "__proto__"].flatMap((key) =>
      values.map((value) => `${key} = ${value}\n`),
    ),
    '[host."https://a.example"]\n',
    '[host."http://b.example:5000/x//y"]\n',
    '[host."https://a.example".header]\n',
    "[host.__proto__]\n",
    "[header]\n",
    'x-a = ["1", "2"]\n',
    "[[host]]\n",
    "#",
    "\n",
  ];

  it("gives upstreams that can be asked, or a fault that names the file", () => {
    const plain = registryUpstream("registry.example", "https");
    let understood = 0;
    const property = fc.property(phrases(lines, 8), (text) => {
      const parsed = valueOrFault(() => parseHostsFile(text, FILE));
      if (parsed === undefined) return;
      understood += 1;
      const upstreams = planUpstreams("registry.example", plain, parsed);
      expect(upstreams.at(-1)?.isMirror).toBe(false);
      for (const { baseUrl, tls, headers } of upstreams) {
        expect(baseUrl.href).toMatch(/^https?:\/\/[^/?#@]+\/([^?#]*\/)?$/);
        expect(tls.caFiles.every((path) => path.startsWith("/"))).toBe(true);
        expect(Object.values(headers).join("")).not.toMatch(/[\r\n]/);
      }
    });
    fc.assert(property, fuzzParameters());
    expect(understood).toBeGreaterThan(0);
  });
});

describe("a duration", () => {
  const words = [
    "1",
    "0",
    ".5",
    "1.",
    "999999999999999",
    "ns",
    "us",
    "ms",
    "s",
    "m",
    "h",
    "-",
    " ",
  ];

  it("is a number of milliseconds or none, and never takes long", () => {
    const texts = fc.oneof(
      phrases(words, 12),
      fc.tuple(fc.constantFrom(...words), fc.nat(5_000)).map(([word, count]) => word.repeat(count)),
    );
    const property = fc.property(texts, (text) => {
      const begin = performance.now();
      const durationMs = parseDuration(text);
      expect(durationMs === undefined || durationMs >= 0).toBe(true);
      expect(performance.now() - begin).toBeLessThan(1_000);
    });
    fc.assert(property, fuzzParameters());
  });
});

describe("NO_PROXY", () => {
  const words = [
    "a.example",
    ".",
    "*",
    ",",
    " ",
    ":",
    "443",
    "10.0.0.0",
    "/8",
    "[",
    "]",
    "::1",
    "fd00::",
  ];
  const urls = ["https://a.example/", "http://10.1.2.3:443/", "https://[fd00::1]/", "http://b/"];

  it("is understood or told about, whatever it says, and loopback stays straight", () => {
    const property = fc.property(phrases(words, 10), (rules) => {
      const proxies = new EnvironmentProxies({
        HTTP_PROXY: "http://p:1",
        HTTPS_PROXY: "http://p:2",
        NO_PROXY: rules,
      });
      for (const url of urls) {
        const port = proxies.for(new URL(url))?.port;
        expect([undefined, url.startsWith("https") ? "2" : "1"]).toContain(port);
      }
      expect(proxies.for(new URL("http://127.0.0.1:5000/"))).toBe(undefined);
      expect(proxies.problems.every((problem) => problem.length < 100)).toBe(true);
    });
    fc.assert(property, fuzzParameters());
  });
});

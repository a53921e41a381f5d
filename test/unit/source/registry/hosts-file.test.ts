// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import { planUpstreams } from "../../../../src/source/registry/host-upstreams.ts";
import { parseHostsFile } from "../../../../src/source/registry/hosts-file.ts";
import { type Upstream, registryUpstream } from "../../../../src/source/registry/upstream.ts";
import { faultOf } from "../../../support/faults.ts";

const FILE = "/etc/containerd/certs.d/registry.example_5000_/hosts.toml";
const HOST = "registry.example:5000";

function upstreams(text: string, host = HOST, scheme: "http" | "https" = "https") {
  return planUpstreams(host, registryUpstream(host, scheme), parseHostsFile(text, FILE));
}

const urls = (list: readonly Upstream[]): readonly string[] =>
  list.map(({ baseUrl }) => baseUrl.href);

describe("a hosts.toml", () => {
  it("gives mirrors in the order of the file, then the server", () => {
    const list = upstreams(`
      server = "https://registry.example:5000"
      [host."https://z.example"]
        capabilities = ["pull"]
      [host."http://a.example:8080/cache"]
        capabilities = ["pull", "resolve", "push"]
      [host."https://10.0.0.9/v2"]
    `);
    expect(urls(list)).toEqual([
      "https://z.example/v2/",
      "http://a.example:8080/cache/v2/",
      "https://10.0.0.9/v2/",
      "https://registry.example:5000/v2/",
    ]);
    expect(list.map(({ isMirror }) => isMirror)).toEqual([true, true, true, false]);
    expect(list.map(({ capabilities }) => capabilities)).toEqual([
      { pull: true, resolve: false },
      { pull: true, resolve: true },
      { pull: true, resolve: true },
      { pull: true, resolve: true },
    ]);
    expect(list.map(({ namespace }) => namespace)).toEqual([HOST, HOST, HOST, undefined]);
    expect(list.map(({ accessHost }) => accessHost)).toEqual([
      "z.example",
      "a.example:8080",
      "10.0.0.9",
      HOST,
    ]);
  });

  it("keeps the order of many hosts, whatever their names", () => {
    const names = Array.from({ length: 40 }, (_, at) => `https://${(at * 7) % 40}.example`);
    const text = names.map((name) => `[host."${name}"]\nskip_verify = false\n`).join("");
    expect(urls(upstreams(text)).slice(0, -1)).toEqual(names.map((name) => `${name}/v2/`));
  });

  it("that names no server ends at the registry itself, with what the file says of it", () => {
    const [only, ...others] = upstreams(`
      ca = "own.crt"
      skip_verify = false
      [header]
        X-Site = ["one", "two"]
    `);
    expect(others).toEqual([]);
    expect(only).toMatchObject({
      name: HOST,
      isMirror: false,
      headers: { "x-site": "one, two" },
      tls: { caFiles: ["/etc/containerd/certs.d/registry.example_5000_/own.crt"] },
    });
  });

  it("may name another server, so that the registry itself is never asked", () => {
    const list = upstreams('server = "mirror.example/all"');
    expect(urls(list)).toEqual(["https://mirror.example/all/v2/"]);
    expect(list[0]).toMatchObject({
      isMirror: false,
      namespace: HOST,
      accessHost: "mirror.example",
    });
  });

  it("has an API root of its own with override_path", () => {
    const list = upstreams(`
      [host."https://odd.example/v2/upstream/"]
        override_path = true
      [host."https://odd.example/artifactory//x/"]
    `);
    expect(urls(list).slice(0, 2)).toEqual([
      "https://odd.example/v2/upstream/",
      "https://odd.example/artifactory/x/v2/",
    ]);
  });

  it.each([
    ['"client.pem"', [["client.pem", undefined]]],
    [
      '["a.pem", "/b.pem"]',
      [
        ["a.pem", undefined],
        ["/b.pem", undefined],
      ],
    ],
    [
      '[["a.cert", "a.key"], ["b.pem", ""]]',
      [
        ["a.cert", "a.key"],
        ["b.pem", undefined],
      ],
    ],
  ])("knows client = %s", (client, pairs) => {
    const absolute = (path: string | undefined): string | undefined =>
      path === undefined || path.startsWith("/") ? path : FILE.replace("hosts.toml", path);
    expect(upstreams(`client = ${client}`)[0]?.tls.clientCertificates).toEqual(
      pairs.map(([cert, key]) => ({ certFile: absolute(cert), keyFile: absolute(key) })),
    );
  });

  it("knows Go's durations, and a proxy", () => {
    const list = upstreams(`
      proxy = "http://proxy.example:3128"
      [host."https://a.example"]
        dial_timeout = "1m1.5s"
      [host."https://b.example"]
        dial_timeout = "250ms"
    `);
    expect(list.map(({ connectTimeoutMs }) => connectTimeoutMs)).toEqual([61_500, 250, undefined]);
    expect(list.map(({ proxy }) => proxy?.host)).toEqual([
      undefined,
      undefined,
      "proxy.example:3128",
    ]);
  });

  it("is a registry's own name for Docker Hub", () => {
    const list = upstreams('[host."https://registry-1.docker.io"]', "docker.io");
    expect(urls(list)).toEqual([
      "https://registry-1.docker.io/v2/",
      "https://registry-1.docker.io/v2/",
    ]);
    expect(list.map(({ namespace }) => namespace)).toEqual([undefined, undefined]);
    expect(list.map(({ accessHost }) => accessHost)).toEqual(["docker.io", "docker.io"]);
  });

  it("that has certificates for a host without TLS means: with TLS first", () => {
    const list = upstreams('[host."http://10.0.0.9:5000"]\nskip_verify = true');
    expect(urls(list).slice(0, 2)).toEqual([
      "https://10.0.0.9:5000/v2/",
      "http://10.0.0.9:5000/v2/",
    ]);
  });

  it("tells what it does not know, and goes on", () => {
    const { notes } = parseHostsFile(
      `colour = "red"\n[host."https://a.example"]\nspeed = 7\n[host."https://a.example".header]\nRange = "x"`,
      FILE,
    );
    expect(notes).toEqual([
      "colour: not known, ignored",
      'host."https://a.example".speed: not known, ignored',
      'host."https://a.example".header.Range: cannot be set, ignored',
    ]);
  });

  it.each([
    ["[host", /^"?line 1, column/],
    ['server = "ftp://a"', /^server: not a URL/],
    ['server = "https://me:secret@a.example"', /^server: a URL without user/],
    ['[host."http://"]', /^host\."http:\/\/": not a URL/],
    ['[host."https://a"]\ncapabilities = ["fly"]', /^host\."https:\/\/a"\.capabilities: "fly"/],
    ["ca = 7", /^ca: a path or a list/],
    ['client = [["a"]]', /^client: a path, a list of paths/],
    ['skip_verify = "no"', /^skip_verify: /],
    ['dial_timeout = "soon"', /^dial_timeout: not a duration/],
    ['dial_timeout = "-1s"', /^dial_timeout: not a duration/],
    ['proxy = "socks5://p:1"', /^proxy: write/],
    ['[header]\n"a b" = "x"', /^header\."a b": not the name of a header/],
    ['[header]\na = "x\\r\\ny: z"', /^header\.a: its value/],
  ])("%j is refused by file and key", (text, detail) => {
    const fault = faultOf(() => parseHostsFile(text, FILE));
    expect(fault).toMatchObject({ code: "config_invalid", where: FILE });
    expect("detail" in fault ? fault.detail : "").toMatch(detail);
    expect(JSON.stringify(fault)).not.toContain("secret");
  });
});

// SPDX-License-Identifier: Apache-2.0
// HTTP_PROXY, HTTPS_PROXY and NO_PROXY, as Go programs (and so containerd) read them: upper case
// first, then lower. The environment is read once. Proxies' addresses may hold passwords.
//
// NO_PROXY, separated by commas or blanks: `*`, an address, a network (`10.0.0.0/8`), a name (it
// and all below it), `.name` or `*.name` (all below it), each with or without a port. Loopback
// never goes through a proxy.

import { BlockList, isIP } from "node:net";
import { isLoopback } from "./options.ts";
import type { Environment } from "./system-roots.ts";

const RULES_MAX = 1000;

interface NameRule {
  /** Without a leading dot, in lower case. */
  readonly name: string;
  readonly itself: boolean;
  readonly port: string | undefined;
}

interface AddressRule {
  readonly list: BlockList;
  readonly port: string | undefined;
}

export class EnvironmentProxies {
  readonly #http: URL | undefined;
  readonly #https: URL | undefined;
  readonly #names: NameRule[] = [];
  readonly #addresses: AddressRule[] = [];
  #none = false;
  /** What is wrong in it, naming the variable and never its value. */
  readonly problems: readonly string[];

  constructor(environment: Environment) {
    const problems: string[] = [];
    const proxy = (name: string): URL | undefined => {
      const text = valueOf(environment, name);
      if (text === "") return undefined;
      const url = proxyUrl(text);
      if (url === undefined) problems.push(`${name} is ignored: write http://host:port`);
      return url;
    };
    this.#http = proxy("HTTP_PROXY");
    this.#https = proxy("HTTPS_PROXY");
    for (const rule of valueOf(environment, "NO_PROXY")
      .split(/[\s,]+/)
      .slice(0, RULES_MAX)) {
      if (rule !== "" && !this.#add(rule.toLowerCase())) {
        problems.push("a part of NO_PROXY is ignored: it is no name, address or network");
      }
    }
    this.problems = problems;
  }

  /** The proxy for a request; undefined: go straight there. */
  for(url: URL): URL | undefined {
    const proxy = url.protocol === "https:" ? this.#https : this.#http;
    if (proxy === undefined || this.#none || isLoopback(url.host)) return undefined;
    const host = url.hostname.replace(/^\[|\]$/g, "").replace(/\.$/, "");
    const port = url.port === "" ? (url.protocol === "https:" ? "443" : "80") : url.port;
    return this.#isExempt(host, port) ? undefined : proxy;
  }

  #isExempt(host: string, port: string): boolean {
    const version = isIP(host);
    if (version !== 0) {
      const family = version === 6 ? "ipv6" : "ipv4";
      return this.#addresses.some(
        (rule) => (rule.port ?? port) === port && rule.list.check(host, family),
      );
    }
    return this.#names.some(
      (rule) =>
        (rule.port ?? port) === port &&
        ((rule.itself && host === rule.name) || host.endsWith(`.${rule.name}`)),
    );
  }

  #add(rule: string): boolean {
    if (rule === "*") {
      this.#none = true;
      return true;
    }
    const network = /^([0-9a-f.:]+)\/([0-9]{1,3})$/.exec(rule);
    if (network !== null) return this.#addNetwork(network[1] ?? "", Number(network[2]));
    const bare = isIP(rule) === 0 ? /^(.*?)(?::([0-9]{1,5}))?$/.exec(rule) : [rule, rule];
    const host = (bare?.[1] ?? "").replace(/^\[(.*)\]$/, "$1");
    const port = bare?.[2];
    const version = isIP(host);
    if (version !== 0) {
      const list = new BlockList();
      list.addAddress(host, version === 6 ? "ipv6" : "ipv4");
      this.#addresses.push({ list, port });
      return true;
    }
    const itself = !/^\*?\./.test(host);
    const name = host.replace(/^\*?\./, "").replace(/\.$/, "");
    if (!/^[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?$/.test(name)) return false;
    this.#names.push({ name, itself, port });
    return true;
  }

  #addNetwork(address: string, prefix: number): boolean {
    const version = isIP(address);
    if (version === 0 || prefix > (version === 6 ? 128 : 32)) return false;
    const list = new BlockList();
    list.addSubnet(address, prefix, version === 6 ? "ipv6" : "ipv4");
    this.#addresses.push({ list, port: undefined });
    return true;
  }
}

function valueOf(environment: Environment, name: string): string {
  return (environment[name] ?? "").trim() || (environment[name.toLowerCase()] ?? "").trim();
}

function proxyUrl(text: string): URL | undefined {
  const whole = /^[a-z0-9+.-]+:\/\//i.test(text) ? text : `http://${text}`;
  if (!URL.canParse(whole)) return undefined;
  const url = new URL(whole);
  return /^https?:$/.test(url.protocol) ? url : undefined;
}

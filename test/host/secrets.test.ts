// SPDX-License-Identifier: Apache-2.0
// Another secret through every way in, while the daemon serves and while it fails; then each of its
// outputs is searched for them: the log at level trace, metrics, every GET of the API, events,
// errors, what is on disk, and what /proc says of its processes.

import { chmod, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import * as z from "zod";
import { unmount } from "../../src/kernel/mount.ts";
import { listMounts } from "../../src/kernel/mountinfo.ts";
import { type RunningDaemon, startDaemon } from "../support/daemon.ts";
import { freePort } from "../support/port.ts";
import { type SecretSite, WAYS, secretOf, startSecretSite } from "./support/secret-site.ts";
import { end, must, program } from "./support/site.ts";

const timeout = 180_000;
const base64 = (text: string): string => Buffer.from(text).toString("base64");

let home: string;
let site: SecretSite;
let daemon: RunningDaemon;
/** What anybody could see, by where. */
const seen: [where: string, text: string][] = [];
const processes = new Map<string, string>();
const watch = new AbortController();
let watching: Promise<void>;
/** The control API over TCP. */
let url: string;
let events: ReturnType<typeof end>;

const curl = (path: string, ...more: string[]) =>
  end("curl", ["-s", ...more, "--unix-socket", daemon.socketPath, `http://erofsd${path}`]);
const erofsd = (...words: string[]) =>
  end(process.execPath, [program, ...words, "--socket", daemon.socketPath]);
const entryOf = (way: string) => ({ auth: base64(`${way}:${secretOf(way)}`) });
const auths = (host: string, way: string): string =>
  JSON.stringify({ auths: { [host]: entryOf(way) } });

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "erofsd-secrets-"));
  site = await startSecretSite(home);
  const address = `127.0.0.1:${await freePort()}`;
  url = `http://${address}`;
  await writeFile(join(home, "token"), secretOf("control-token"), { mode: 0o600 });
  daemon = await startDaemon({
    program,
    cacheDir: join(home, "cache"),
    logLevel: "trace",
    control: `listen = "${address}"\ntoken_file = "${home}/token"`,
    config: await writeConfig(),
    environment: {
      EROFSD_REGISTRY_AUTH: auths(site.hostOf("environment"), "environment"),
      HTTP_PROXY: `http://proxy:${secretOf("proxy")}@127.0.0.1:9`,
      HTTPS_PROXY: `http://proxy:${secretOf("proxy")}@127.0.0.1:9`,
      PATH: `${home}/bin:/usr/bin:/bin:/usr/sbin:/sbin`,
    },
  });
  watching = watchProcesses();
  events = curl("/v1/events", "-N", "--max-time", "30");
}, timeout);

afterAll(async () => {
  watch.abort();
  await watching;
  for (const { mountPoint } of (await listMounts()).toReversed()) {
    if (mountPoint.startsWith(`${home}/`)) unmount(mountPoint, { lazy: true });
  }
  await daemon.stop();
  await site.stop();
  await rm(home, { recursive: true, force: true });
}, timeout);

async function writeConfig(): Promise<string> {
  const dockerAuths = JSON.stringify({ [site.hostOf("docker")]: entryOf("docker") });
  const credHelpers = { [site.hostOf("program")]: "secret" };
  const docker = `{"auths":${dockerAuths},"credHelpers":${JSON.stringify(credHelpers)}}`;
  await writeFile(join(home, "docker.json"), docker);
  await mkdir(join(home, "bin"));
  const helper = join(home, "bin/docker-credential-secret");
  const answer = JSON.stringify({ Username: "program", Secret: secretOf("program") });
  await writeFile(helper, `#!/bin/sh\nsleep 0.3\ncat <<'END'\n${answer}\nEND\n`);
  await chmod(helper, 0o755);
  const folder = join(home, "certs.d", "mirrored.invalid:5000");
  await mkdir(folder, { recursive: true });
  const header = `[host."http://${site.mirror}".header]\nx-site-key = "${secretOf("mirror")}"\n`;
  await writeFile(join(folder, "hosts.toml"), `[host."http://${site.mirror}"]\n${header}`);
  const behind = join(home, "certs.d", "behind.invalid");
  await mkdir(behind);
  const proxy = `http://proxy:${secretOf("proxy")}@127.0.0.1:9`;
  const lines = `[host."https://behind.invalid"]\nproxy = "${proxy}"\n`;
  await writeFile(join(behind, "hosts.toml"), lines);
  const credentials = [site.hostOf("config"), site.echo].map((host) => {
    const user = `username = "config"\npassword = "${secretOf("config")}"`;
    return `[[registry.credentials]]\nhost = "${host}"\n${user}\n`;
  });
  const { host: proxyHost } = new URL(site.proxy);
  return `[kernel]
door = "fanotify"
[registry]
attempts = 1
docker_config = "${home}/docker.json"
certs_dir = "${home}/certs.d"
${credentials.join("")}
[p2p]
proxy = "http://peers:${secretOf("url")}@${proxyHost}"
hosts = ["${site.hostOf("peers")}"]
headers = { "x-peers-key" = "${secretOf("peers")}" }
`;
}

/** What /proc says of the daemon's command line, and of its children all that it says. */
async function watchProcesses(): Promise<void> {
  const note = async (pid: string, names: readonly string[]): Promise<void> => {
    for (const name of names) {
      const text = await readFile(`/proc/${pid}/${name}`, "utf8").catch(() => "");
      if (text !== "") processes.set(`${pid} ${name}`, text);
    }
  };
  while (!watch.signal.aborted) {
    await note(String(daemon.pid), ["cmdline"]);
    for (const pid of (await readdir("/proc")).filter((name) => /^[0-9]+$/.test(name))) {
      const stat = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
      const [, parent] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      if (Number(parent) !== daemon.pid) continue;
      await note(pid, ["cmdline", "environ"]);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function login(
  way: string,
  host: string,
  by: readonly string[] = ["--username", way, "--password-stdin"],
): Promise<void> {
  const script = `printf %s "$0" | "$@"`;
  const words = ["login", host, ...by];
  const rest = [process.execPath, program, ...words, "--socket", daemon.socketPath];
  const ended = await end("sh", ["-c", script, secretOf(way), ...rest]);
  expect(ended.code).toBe(0);
  seen.push([`login ${way}`, ended.stdout + ended.stderr]);
}

test(
  "each of them opens what it is for",
  async () => {
    await login("login", site.hostOf("login"));
    await login("token", site.hostOf("token"));
    await login("bearer", site.hostOf("bearer"), ["--token-stdin"]);
    for (const [way, reference] of site.references) {
      const directory = join(home, `mount-${way}`);
      await mkdir(directory);
      const mounted = await erofsd("mount", reference, directory);
      expect([way, mounted.stderr, mounted.code]).toEqual([way, "", 0]);
      expect(await must("cat", [join(directory, "file")])).toBe(`${way}\n`.repeat(200_000));
      seen.push([`mount ${way}`, mounted.stdout + mounted.stderr]);
    }
    expect(site.asked.signed).toBeGreaterThan(0);
    expect(site.asked.mirror).toBeGreaterThan(0);
    expect(site.asked.peers).toBeGreaterThan(0);
    expect(site.lastToken().length).toBeGreaterThan(100);
  },
  timeout,
);

test(
  "errors have none of them",
  async () => {
    const directory = join(home, "none");
    await mkdir(directory);
    const wrong = [
      `${site.echo}/raw:v1`,
      "behind.invalid/raw:v1",
      "elsewhere.invalid/raw:v1",
      `${site.hostOf("mirror")}/raw:absent`,
      `${site.hostOf("signed")}/raw:absent`,
      `${site.hostOf("peers")}/other:absent`,
      `user:${secretOf("reference")}@${site.echo}/raw:v1`,
    ];
    for (const reference of wrong) {
      const ended = await erofsd("mount", reference, directory);
      expect(ended.code).not.toBe(0);
      seen.push([`error of ${reference}`, ended.stdout + ended.stderr]);
    }
    const body = JSON.stringify({ host: "-", password: secretOf("login"), username: 1 });
    const refused = await curl("/v1/credentials", "-d", body);
    expect(refused.stdout).toContain('"code"');
    seen.push(["error of POST /v1/credentials", refused.stdout]);
    for (const token of [secretOf("control-token"), `${secretOf("control-token")}x`]) {
      const header = join(home, "header");
      await writeFile(header, `authorization: Bearer ${token}\n`);
      for (const path of ["/v1/config", "/v1/none"]) {
        const { stdout } = await end("curl", ["-si", "-H", `@${header}`, `${url}${path}`]);
        expect(stdout).toMatch(/^HTTP\/1.1 (200|404|401) /);
        seen.push([`GET ${path} over TCP`, stdout]);
      }
    }
    const words = ["ps", "--socket", url, "--token-file", join(home, "token")];
    const ps = await end(process.execPath, [program, ...words]);
    expect(ps.code).toBe(0);
    seen.push(["ps over TCP", ps.stdout + ps.stderr]);
  },
  timeout,
);

test(
  "no output has any of them, in any spelling",
  async () => {
    await askEverything();
    for (const words of [["config", "show"], ["images"], ["top", "--once"], ["ps"], ["status"]]) {
      const { stdout, stderr } = await erofsd(...words);
      seen.push([words.join(" "), stdout + stderr]);
    }
    watch.abort();
    await watching;
    for (const [where, text] of processes) seen.push([`/proc ${where}`, text]);
    seen.push(["/v1/events", (await events).stdout]);
    seen.push(["log", daemon.log.map((line) => JSON.stringify(line)).join("\n")]);
    await seeFiles(join(home, "cache"));
    expect(seen.filter(([where]) => where.endsWith("environ")).length).toBeGreaterThan(1);
    expect(daemon.log.filter(({ level }) => level === 10).length).toBeGreaterThan(20);
    const found = seen.flatMap(([where, text]) =>
      spellings()
        .filter((spelling) => text.includes(spelling) && !isNeeded(where, spelling))
        .map((spelling) => [where, spelling, around(text, spelling)]),
    );
    expect(found).toEqual([]);
  },
  timeout,
);

/** A credential program asks other machines as we do. */
function isNeeded(where: string, spelling: string): boolean {
  const isProgram = (
    processes.get(where.replace(/^\/proc (\d+) environ$/, "$1 cmdline")) ?? ""
  ).includes("docker-credential-");
  return isProgram && spelling.includes(secretOf("proxy"));
}

function spellings(): string[] {
  const ways = [...WAYS, "proxy", "url", "reference", "control-token"];
  const passwords = ways.flatMap((way) => [
    secretOf(way),
    // Of base64 what does not depend on where it ends.
    base64(secretOf(way)).slice(0, -4),
    base64(`${way}:${secretOf(way)}`).slice(0, -4),
  ]);
  return [...passwords, site.lastToken().slice(0, 60), site.lastToken().slice(-60)];
}

function around(text: string, word: string): string {
  const at = text.indexOf(word);
  return text.slice(Math.max(0, at - 200), at + 100);
}

/** Every GET that the API has, of every image. */
async function askEverything(): Promise<void> {
  const { paths: described } = z
    .object({ paths: z.record(z.string(), z.record(z.string(), z.unknown())) })
    .parse(JSON.parse((await curl("/openapi.json")).stdout));
  const paths = Object.keys(described).filter((path) => "get" in (described[path] ?? {}));
  expect(paths.length).toBeGreaterThan(12);
  for (const path of paths.filter((each) => each !== "/v1/events")) {
    const names = path.includes("{") ? site.references.map(([, reference]) => reference) : [""];
    for (const name of names) {
      const filled = path.replace(/\{\w+\}/, encodeURIComponent(name));
      const { stdout } = await curl(filled, "--max-time", path === "/v1/trace" ? "1" : "10");
      seen.push([`GET ${filled}`, stdout]);
    }
  }
}

async function seeFiles(directory: string): Promise<void> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  for (const entry of entries.filter((each) => each.isFile())) {
    const path = join(entry.parentPath, entry.name);
    seen.push([path, await readFile(path, "latin1")]);
  }
}

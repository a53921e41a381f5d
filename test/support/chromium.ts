// SPDX-License-Identifier: Apache-2.0
// Headless Chromium (Debian package chromium) over its debugging pipe: pages as people see them.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable, Writable } from "node:stream";
import * as z from "zod";

const BINARY = "/usr/bin/chromium";
const FLAGS = [
  "--headless=new",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-dev-shm-usage",
  "--no-first-run",
  "--disable-background-networking",
  "--remote-debugging-pipe",
];
const LIMIT_MS = 60_000;

const message = z.looseObject({
  id: z.number().optional(),
  method: z.string().optional(),
  params: z.unknown().optional(),
  result: z.unknown().optional(),
  error: z.looseObject({ message: z.string() }).optional(),
});
type Message = z.infer<typeof message>;

const evaluated = z.looseObject({ result: z.looseObject({ value: z.unknown().optional() }) });

export interface Page {
  /** What its console and its policy complained of, and what it threw. */
  readonly problems: readonly string[];
  /** What it asked the network for beside itself. */
  readonly requests: readonly string[];
  /** The value of an expression in the page. */
  evaluate(expression: string): Promise<unknown>;
  /** PNG, of all of it, as by day or by night. */
  screenshot(scheme: "light" | "dark"): Promise<Uint8Array>;
  scheme(scheme: "light" | "dark"): Promise<void>;
}

export class Chromium {
  readonly #child: ChildProcess;
  readonly #home: string;
  readonly #toBrowser: Writable;
  readonly #waiting = new Map<number, (answer: Message) => void>();
  readonly #listeners = new Set<(event: Message) => void>();
  #nextId = 1;

  private constructor(child: ChildProcess, home: string) {
    this.#child = child;
    this.#home = home;
    const [, , , to, from] = child.stdio;
    if (!(to instanceof Writable) || !(from instanceof Readable)) throw new Error("no pipe");
    this.#toBrowser = to;
    let rest = "";
    from.setEncoding("utf8").on("data", (piece: string) => {
      const parts = (rest + piece).split("\0");
      rest = parts.pop() ?? "";
      for (const part of parts) this.#took(message.parse(JSON.parse(part)));
    });
  }

  static async start(): Promise<Chromium> {
    const home = await mkdtemp(join(tmpdir(), "erofsd-chromium-"));
    const child = spawn(BINARY, [...FLAGS, `--user-data-dir=${home}`], {
      stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"],
    });
    await Promise.race([
      once(child, "spawn"),
      once(child, "error").then(([error]) => {
        throw new Error(`${BINARY} does not start: install chromium`, { cause: error });
      }),
    ]);
    return new Chromium(child, home);
  }

  async open(path: string, width = 1200): Promise<Page> {
    const target = z.looseObject({ targetId: z.string() });
    const { targetId } = target.parse(
      await this.#ask("Target.createTarget", { url: "about:blank" }),
    );
    const attached = await this.#ask("Target.attachToTarget", { targetId, flatten: true });
    const { sessionId } = z.looseObject({ sessionId: z.string() }).parse(attached);
    const ask = (method: string, params: object = {}) => this.#ask(method, params, sessionId);
    const problems: string[] = [];
    const requests: string[] = [];
    const url = `file://${path}`;
    const loaded = new Promise<void>((resolve) => {
      this.#listeners.add(({ method, params }) => {
        if (method === "Page.loadEventFired") resolve();
        if (method === "Runtime.exceptionThrown" || method === "Runtime.consoleAPICalled") {
          problems.push(JSON.stringify(params));
        }
        if (method === "Log.entryAdded") problems.push(JSON.stringify(params));
        if (method !== "Network.requestWillBeSent") return;
        const sent = z.looseObject({ request: z.looseObject({ url: z.string() }) }).parse(params);
        if (sent.request.url !== url) requests.push(sent.request.url);
      });
    });
    for (const domain of ["Page", "Runtime", "Log", "Network"]) await ask(`${domain}.enable`);
    const size = { width, height: 900, deviceScaleFactor: 1, mobile: false };
    await ask("Emulation.setDeviceMetricsOverride", size);
    await ask("Page.navigate", { url });
    await loaded;
    const scheme = async (value: "light" | "dark"): Promise<void> => {
      const features = [{ name: "prefers-color-scheme", value }];
      await ask("Emulation.setEmulatedMedia", { features });
    };
    return {
      problems,
      requests,
      scheme,
      async evaluate(expression) {
        const answer = await ask("Runtime.evaluate", { expression, returnByValue: true });
        return evaluated.parse(answer).result.value;
      },
      async screenshot(which) {
        await scheme(which);
        const options = { format: "png", captureBeyondViewport: true };
        const shot = z.looseObject({ data: z.string() });
        const { data } = shot.parse(await ask("Page.captureScreenshot", options));
        return Buffer.from(data, "base64");
      },
    };
  }

  async stop(): Promise<void> {
    const ended = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await ended;
    await rm(this.#home, { recursive: true, force: true, maxRetries: 5 });
  }

  #ask(method: string, params: object, sessionId?: string): Promise<unknown> {
    const id = this.#nextId++;
    const asked = { id, method, params, ...(sessionId === undefined ? {} : { sessionId }) };
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(new Error(`${method}: no answer`));
      }, LIMIT_MS);
      this.#waiting.set(id, ({ result, error }) => {
        clearTimeout(timer);
        if (error === undefined) resolve(result);
        else reject(new Error(`${method}: ${error.message}`));
      });
      this.#toBrowser.write(`${JSON.stringify(asked)}\0`);
    });
  }

  #took(answer: Message): void {
    if (answer.id === undefined) {
      for (const listener of this.#listeners) listener(answer);
      return;
    }
    this.#waiting.get(answer.id)?.(answer);
    this.#waiting.delete(answer.id);
  }
}

// SPDX-License-Identifier: Apache-2.0
// A registry of the blobs in some directories, under any repository, for whoever has the right
// name and password. Blobs can be missing from it, or not be what their digests say.

import { readFile, readdir, stat } from "node:fs/promises";
import { type IncomingMessage, type Server, type ServerResponse, createServer } from "node:http";
import { join } from "node:path";

export class BlobRegistry {
  /** `user:password`; undefined lets everybody in. */
  login: string | undefined;
  /** Requests with another name or password. */
  refused = 0;
  bytes = 0;
  /** Blobs (64 hex digits) answered with 404. */
  readonly missing = new Set<string>();
  /** Blobs with a bit turned in the bytes at these offsets. */
  readonly damaged = new Map<string, readonly number[]>();
  readonly #files: ReadonlyMap<string, { path: string; size: number }>;
  readonly #server: Server;

  private constructor(files: ReadonlyMap<string, { path: string; size: number }>) {
    this.#files = files;
    this.#server = createServer((request, response) => {
      this.#answer(request, response);
    });
  }

  static async start(directories: readonly string[], port: number): Promise<BlobRegistry> {
    const files = new Map<string, { path: string; size: number }>();
    for (const directory of directories) {
      for (const name of await readdir(directory)) {
        const path = join(directory, name);
        if (/^[0-9a-f]{64}$/.test(name)) files.set(name, { path, size: (await stat(path)).size });
      }
    }
    const registry = new BlobRegistry(files);
    await new Promise<void>((resolve) => {
      registry.#server.listen(port, "127.0.0.1", resolve);
    });
    return registry;
  }

  stop(): Promise<void> {
    this.#server.closeAllConnections();
    return new Promise((resolve) => {
      this.#server.close(() => {
        resolve();
      });
    });
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const { login } = this;
    const wanted = login === undefined ? "" : `Basic ${Buffer.from(login).toString("base64")}`;
    const given = request.headers.authorization;
    if (login !== undefined && given !== wanted) {
      // Without a name it is only a question.
      if (given !== undefined) this.refused += 1;
      response.writeHead(401, { "www-authenticate": 'Basic realm="blobs"' }).end();
      return;
    }
    const [, hex = ""] = /^\/v2\/.+\/blobs\/sha256:([0-9a-f]{64})$/.exec(request.url ?? "") ?? [];
    const file = this.missing.has(hex) ? undefined : this.#files.get(hex);
    if (file === undefined) {
      response.writeHead(request.url === "/v2/" ? 200 : 404).end();
      return;
    }
    const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "") ?? [];
    const start = Number(from ?? 0);
    const end = Math.min(to === undefined || to === "" ? file.size - 1 : Number(to), file.size - 1);
    const headers = {
      "content-length": end - start + 1,
      "content-range": `bytes ${start}-${end}/${file.size}`,
      "accept-ranges": "bytes",
    };
    response.writeHead(from === undefined ? 200 : 206, headers);
    if (request.method === "HEAD") {
      response.end();
      return;
    }
    this.bytes += end - start + 1;
    void this.#content(hex, file.path).then((content) => {
      response.end(content.subarray(start, end + 1));
    });
  }

  async #content(hex: string, path: string): Promise<Buffer> {
    const content = await readFile(path);
    for (const at of this.damaged.get(hex) ?? []) content[at] = (content[at] ?? 0) ^ 0x10;
    return content;
  }
}

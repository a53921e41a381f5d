// SPDX-License-Identifier: Apache-2.0
// A registry with one thing wrong at a time. It serves every tag of a repository as that
// repository's image, so each test has a name, and so a cache file, of its own. Content is in
// memory: answering must never wait for a disk that may wait for the daemon.

import type { Socket } from "node:net";
import { type BuiltImage, digestOf } from "../../support/oci-image.ts";
import {
  type ScriptedRequest,
  type ScriptedServer,
  response,
  rightAnswer,
  startScriptedServer,
} from "../../support/scripted-server.ts";

export interface FaultyAnswer {
  readonly request: ScriptedRequest;
  readonly socket: Socket;
  /** Of this kind of request, since the fault was set, from 0. */
  readonly index: number;
  /** How long ago the first of this kind was; a client may send two for the same bytes. */
  readonly sinceMs: number;
  /** What a healthy registry answers. */
  readonly right: Buffer;
  /** The blob's bytes; empty for a manifest. */
  readonly content: Uint8Array;
}

export interface RegistryFault {
  readonly of: "manifest" | "blob";
  readonly answer: (asked: FaultyAnswer) => void;
}

export class FaultyRegistry {
  readonly #images = new Map<string, BuiltImage>();
  readonly #blobs = new Map<string, Uint8Array>();
  #server: ScriptedServer | undefined;
  #fault: (RegistryFault & { repository: string; count: number; firstMs: number }) | undefined;

  static async start(): Promise<FaultyRegistry> {
    const registry = new FaultyRegistry();
    registry.#server = await startScriptedServer((request, socket) => {
      registry.#respond(request, socket);
    });
    return registry;
  }

  get host(): string {
    if (this.#server === undefined) throw new Error("not started");
    return this.#server.host;
  }

  put(repository: string, image: BuiltImage): void {
    this.#images.set(repository, image);
    for (const { bytes } of [image.config, ...image.layers]) {
      this.#blobs.set(digestOf(bytes), bytes);
    }
  }

  /** Stores other bytes under a digest. */
  corrupt(digest: string, bytes: Uint8Array): void {
    this.#blobs.set(digest, bytes);
  }

  /** From now on requests of that kind to `repository` are answered by the fault. */
  break(repository: string, fault: RegistryFault): void {
    this.#fault = { ...fault, repository, count: 0, firstMs: 0 };
  }

  heal(): void {
    this.#fault = undefined;
  }

  async stop(): Promise<void> {
    await this.#server?.close();
  }

  #respond(request: ScriptedRequest, socket: Socket): void {
    const [, repository = "", kind, name = ""] =
      /^\/v2\/(.+)\/(manifests|blobs)\/([^/]+)$/.exec(request.path) ?? [];
    const of = kind === "manifests" ? "manifest" : "blob";
    const content = (of === "blob" ? this.#blobs.get(name) : undefined) ?? new Uint8Array();
    const right = of === "manifest" ? this.#manifest(repository) : blobAnswer(request, content);
    const fault = this.#fault;
    if (fault === undefined || fault.repository !== repository || fault.of !== of) {
      socket.write(right);
      return;
    }
    const index = fault.count;
    fault.count += 1;
    const nowMs = performance.now();
    if (index === 0) fault.firstMs = nowMs;
    fault.answer({ request, socket, index, sinceMs: nowMs - fault.firstMs, right, content });
  }

  #manifest(repository: string): Buffer {
    const manifest = this.#images.get(repository)?.manifest;
    if (manifest === undefined) return response(404);
    return response(200, { "content-type": manifest.mediaType }, manifest.bytes);
  }
}

function blobAnswer(request: ScriptedRequest, content: Uint8Array): Buffer {
  if (content.length === 0) return response(404);
  if (!request.headers.has("range")) return response(200, {}, content);
  const [, first = "0"] = /^bytes=(\d+)-/.exec(request.headers.get("range") ?? "") ?? [];
  if (Number(first) >= content.length) {
    return response(416, { "content-range": `bytes */${content.length}` });
  }
  return rightAnswer(request, content);
}

// SPDX-License-Identifier: Apache-2.0
// The images this daemon was told of, as bodies that can be told again: what the journal and the
// supervisor keep. Every change reaches the service first, then the disk, then the caller.
// Order matters: for one registry and repository the newest access wins, so the newest is last.

import { statSync } from "node:fs";
import type { Log } from "../platform/log.ts";
import { textOf } from "./api-error.ts";
import { parseAuth } from "./backend.ts";
import { type BindRequest, parseBindBody } from "./bind.ts";
import { type Json, isJson } from "./bind-fields.ts";
import type { Journal } from "./journal.ts";
import type { BlobService } from "./service.ts";

export class Images {
  readonly #service: BlobService;
  readonly #journal: Journal;
  readonly #log: Log;
  readonly #fscacheDir: string;
  readonly #known = new Map<string, BindRequest>();

  constructor(parts: { service: BlobService; journal: Journal; log: Log; fscacheDir: string }) {
    this.#service = parts.service;
    this.#journal = parts.journal;
    this.#log = parts.log;
    this.#fscacheDir = parts.fscacheDir;
  }

  /** The bodies, oldest first. */
  get bodies(): readonly Json[] {
    return [...this.#known.values()].map(({ body }) => body);
  }

  get all(): readonly BindRequest[] {
    return [...this.#known.values()];
  }

  find(fsid: string): BindRequest | undefined {
    return this.all.find(({ image }) => image.fsid === fsid);
  }

  /** Binds, or binds again with what is new. */
  async put(request: BindRequest): Promise<void> {
    await this.#service.bind(request.image);
    this.#remember(request);
    await this.save();
  }

  /** Returns how many the service knew. */
  async remove(name: { domainId: string; fsid?: string }): Promise<number> {
    const count = await this.#service.unbind(name);
    for (const [key, { image }] of this.#known) {
      if (image.domainId !== name.domainId) continue;
      if (name.fsid === undefined || name.fsid === image.fsid) this.#known.delete(key);
    }
    await this.save();
    return count;
  }

  /** New credentials (base64 of user:password) for all that comes from this image's repository. */
  async renew(fsid: string, auth: string): Promise<boolean> {
    const credentials = parseAuth(auth);
    const changed = this.find(fsid);
    if (credentials === undefined || changed === undefined) return false;
    const isKnown = this.#service.renew(fsid, credentials);
    const { backend } = changed.image;
    if (!isKnown || backend.kind !== "registry") return isKnown;
    for (const { image, body } of this.all) {
      const other = image.backend;
      if (other.kind !== "registry" || other.host !== backend.host) continue;
      if (other.repository !== backend.repository) continue;
      this.#remember(this.#parse(withAuth(body, auth)));
    }
    await this.save();
    return true;
  }

  /**
   * Makes the images exactly those that a state or a journal says. One whose bootstrap is gone
   * from disk is left out; one that cannot be bound for another reason is kept for a later daemon.
   */
  async restore(bodies: readonly unknown[]): Promise<void> {
    const wanted = new Set<string>();
    for (const body of bodies) {
      try {
        const request = this.#parse(body);
        const key = keyOf(request);
        const before = this.#known.get(key);
        wanted.add(key);
        this.#remember(request);
        if (JSON.stringify(before?.body) === JSON.stringify(body)) continue;
        if (!isFile(request.image.bootstrapPath)) {
          wanted.delete(key);
          throw new Error(`${request.image.bootstrapPath} is gone`);
        }
        await this.#service.bind(request.image);
      } catch (error) {
        this.#log.warn({ fsid: idOf(body) }, `an image cannot be served: ${textOf(error)}`);
      }
    }
    for (const [key, { image }] of this.#known) {
      if (wanted.has(key)) continue;
      this.#known.delete(key);
      await this.#service.unbind({ domainId: image.domainId, fsid: image.fsid });
    }
  }

  /** A disk that cannot be written costs a later daemon an image, at worst; not this one. */
  async save(): Promise<void> {
    try {
      await this.#journal.save(this.bodies);
    } catch (error) {
      this.#log.error(
        { path: this.#journal.path },
        `the journal cannot be written: ${textOf(error)}`,
      );
    }
  }

  #parse(body: unknown): BindRequest {
    return parseBindBody(body, { fscacheDir: this.#fscacheDir });
  }

  #remember(request: BindRequest): void {
    const key = keyOf(request);
    this.#known.delete(key);
    this.#known.set(key, request);
  }
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() === true;
}

function keyOf({ image }: BindRequest): string {
  return `${image.domainId}/${image.fsid}`;
}

function idOf(body: unknown): unknown {
  return isJson(body) ? body["id"] : undefined;
}

/** The body with other credentials; a bearer token in it would be older than they are. */
function withAuth(body: Json, auth: string): Json {
  const config = isJson(body["config"]) ? body["config"] : {};
  const backend = isJson(config["backend_config"]) ? config["backend_config"] : {};
  const { registry_token: _, ...rest } = backend;
  return { ...body, config: { ...config, backend_config: { ...rest, auth } } };
}

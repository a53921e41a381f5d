// SPDX-License-Identifier: Apache-2.0
// The gate before flow: hands each kernel request to the room that serves it, until the daemon
// stops; from then on every new request is refused at once.

import type { DaemonError } from "../errors.ts";
import type { KernelHandler, KernelObject, OpenRequest, ReadRequest } from "../kernel/transport.ts";
import type { Engine } from "./engine.ts";
import type { Opener } from "./open-image.ts";

export class Admission implements KernelHandler {
  readonly #opener: Opener;
  readonly #engine: Engine;
  #stopping: DaemonError | undefined;

  constructor(opener: Opener, engine: Engine) {
    this.#opener = opener;
    this.#engine = engine;
  }

  refuseNew(error: DaemonError): void {
    this.#stopping = error;
  }

  open(request: OpenRequest): void {
    if (this.#stopping === undefined) this.#opener.open(request);
    else request.refuse(this.#stopping);
  }

  read(request: ReadRequest): void {
    if (this.#stopping === undefined) this.#engine.read(request);
    else request.fail(this.#stopping);
  }

  closed(object: KernelObject): void {
    this.#engine.closed(object);
  }
}

// SPDX-License-Identifier: Apache-2.0
// A registry client with a mirror before its registry, both scripted servers.

import type { Clock } from "../../src/platform/clock.ts";
import type { AccessBook } from "../../src/source/registry/access.ts";
import { type Upstream, registryUpstream } from "../../src/source/registry/upstream.ts";
import { CONTENT, type ClientFixture, startClient } from "./registry-client.ts";
import {
  type Respond,
  type ScriptedServer,
  rightAnswer,
  startScriptedServer,
} from "./scripted-server.ts";

export function mirrorAt(host: string, fields: Partial<Upstream> = {}): Upstream {
  const plain = registryUpstream(host, "http");
  return { ...plain, isMirror: true, namespace: "registry.example:5000", ...fields };
}

export interface Mirrored extends AsyncDisposable {
  readonly client: ClientFixture;
  readonly mirror: ScriptedServer;
}

export interface MirroredOptions {
  readonly registry?: Respond;
  readonly fields?: Partial<Upstream>;
  readonly access?: AccessBook;
  readonly clock?: Clock;
}

/** A registry that answers right, unless told, and before it a mirror that answers as told. */
export async function startMirrored(
  respond: Respond,
  made: MirroredOptions = {},
): Promise<Mirrored> {
  const mirror = await startScriptedServer(respond);
  const client = await startClient(
    made.registry ?? ((request, socket) => socket.write(rightAnswer(request, CONTENT))),
    {
      ...(made.access && { access: made.access }),
      ...(made.clock && { clock: made.clock }),
      upstreams: (_, plain) => Promise.resolve([mirrorAt(mirror.host, made.fields), plain]),
    },
  );
  return {
    client,
    mirror,
    async [Symbol.asyncDispose]() {
      await client[Symbol.asyncDispose]();
      await mirror.close();
    },
  };
}

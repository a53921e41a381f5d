// SPDX-License-Identifier: Apache-2.0
// What can be wrong with a registry's answers, one entry each, and what the daemon must say of it.

import { askedRange, response } from "../../support/scripted-server.ts";
import type { FaultyAnswer, RegistryFault } from "./faulty-registry.ts";

export interface ReadFault extends RegistryFault {
  readonly name: string;
  /** Tried again until it succeeds; otherwise the reader gets EIO. */
  readonly served: boolean;
  /** The log's code and words. */
  readonly code: string;
  readonly says: RegExp;
  /** Also where one fault must do. */
  readonly everywhere?: boolean;
}

/** Faults of blob requests, after the mount. */
export const READ_FAULTS: readonly ReadFault[] = [
  fault("a body that ends too early, always", {
    code: "registry_unreachable",
    says: /connection was (closed|reset)/,
    answer: ({ socket, right }) => {
      socket.end(right.subarray(0, headLength(right) + 100));
    },
  }),
  fault("200 and the whole blob to a range request", {
    code: "registry_protocol",
    says: /200 instead of 206/,
    answer: ({ socket, content }) => socket.write(response(200, {}, content)),
  }),
  fault("another range than was asked for", {
    code: "registry_protocol",
    says: /got Content-Range bytes 0-/,
    answer: ({ request, socket, content }) => {
      const { length } = askedRange(request);
      const range = `bytes 0-${length - 1}/${content.length}`;
      socket.write(response(206, { "content-range": range }, content.subarray(0, length)));
    },
  }),
  fault("401", {
    code: "registry_unauthorized",
    says: /refuses access to test\/broken \(HTTP 401\)/,
    answer: ({ socket }) => socket.write(response(401)),
  }),
  fault("404", {
    code: "blob_not_found",
    says: /has no blob sha256:.* in test\/broken/,
    answer: ({ socket }) => socket.write(response(404)),
  }),
  fault("429 with Retry-After, for most of a second", {
    served: true,
    code: "registry_throttled",
    says: /429 Too Many Requests; trying again/,
    answer: ({ sinceMs, socket, right }) => {
      socket.write(sinceMs < 900 ? response(429, { "retry-after": "1" }) : right);
    },
  }),
  fault("500 twice", {
    served: true,
    code: "registry_failed",
    says: /HTTP 500: .*; trying again/,
    answer: (asked) => firstly(2, asked, response(500)),
  }),
  fault("500 for ever", {
    everywhere: true,
    code: "registry_failed",
    says: /a fill failed: .*HTTP 500/,
    answer: ({ socket }) => socket.write(response(500)),
  }),
  fault("a connection cut in mid-body, once", {
    served: true,
    code: "registry_unreachable",
    says: /trying again/,
    answer: ({ index, socket, right }) => {
      if (index > 0) socket.write(right);
      else socket.end(right.subarray(0, headLength(right) + 5000));
    },
  }),
  fault("a body slower than the deadline", {
    code: "deadline_exceeded",
    says: /took longer than/,
    answer: ({ socket, right }) => {
      let sent = headLength(right);
      socket.write(right.subarray(0, sent));
      const timer = setInterval(() => {
        socket.write(right.subarray(sent, sent + 10));
        sent += 10;
      }, 50);
      socket.once("close", () => {
        clearInterval(timer);
      });
    },
  }),
  fault("no answer at all", {
    code: "deadline_exceeded",
    says: /took longer than/,
    answer: () => undefined,
  }),
  fault("a blob shorter than its descriptor says", {
    code: "blob_truncated",
    says: /1048576 bytes stored, \d+ by its manifest/,
    answer: ({ socket }) => {
      socket.write(response(416, { "content-range": "bytes */1048576" }));
    },
  }),
];

export interface MountFault extends RegistryFault {
  readonly name: string;
  readonly code: string;
  readonly says: RegExp;
}

/** Faults met by the OPEN of the image itself. */
export const MOUNT_FAULTS: readonly MountFault[] = [
  {
    name: "a registry that never answers for the manifest",
    of: "manifest",
    code: "deadline_exceeded",
    says: /opening ".*" took longer than/,
    answer: () => undefined,
  },
  {
    name: "a registry that never answers for the blob",
    of: "blob",
    code: "deadline_exceeded",
    says: /took longer than/,
    answer: () => undefined,
  },
  {
    name: "500 for the manifest",
    of: "manifest",
    code: "registry_failed",
    says: /HTTP 500/,
    answer: ({ socket }) => socket.write(response(500)),
  },
];

function fault(
  name: string,
  rest: Pick<ReadFault, "code" | "says" | "answer"> &
    Partial<Pick<ReadFault, "served" | "everywhere">>,
): ReadFault {
  return { of: "blob", name, served: false, ...rest };
}

function firstly(count: number, { index, socket, right }: FaultyAnswer, wrong: Buffer): void {
  socket.write(index < count ? wrong : right);
}

function headLength(answer: Buffer): number {
  return answer.indexOf("\r\n\r\n") + 4;
}

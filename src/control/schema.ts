// SPDX-License-Identifier: Apache-2.0
// What is said over the control socket: HTTP/1.1 with JSON bodies. The daemon checks requests
// and the CLI checks answers with these same schemas; the two share nothing else.

import * as z from "zod";

/** Every answer that is not 200, and every failure that is told of later. */
export const failure = z.strictObject({
  /** One of the codes of src/errors.ts; what programs should look at. */
  code: z.string(),
  /** What failed and where, for people. */
  message: z.string(),
  /** What of a request was wrong: a field of its body, of its query or of its path, or `body`. */
  field: z.string().optional(),
  /** What to do about it. */
  hint: z.string().optional(),
});
export type Failure = z.infer<typeof failure>;

/** POST /v1/images: make a reference mountable under a key of the daemon's choosing, or a given one. */
export const registerRequest = z.strictObject({
  reference: z.string().min(1).max(4096),
  /** The cookie key to mount it by; default: a digest. */
  fsid: z.string().min(1).max(252).optional(),
  /** Of this image, for now and later; default: as before, or as the configuration has it. */
  fill: z.enum(["on-demand", "background"]).optional(),
});
export type RegisterRequest = z.infer<typeof registerRequest>;

const secret = z
  .string()
  .min(1)
  .max(32 * 1024);
const secretPlace = {
  /** As in a reference, or as docker writes it. */
  host: z.string().min(1).max(1024),
  /** This repository and those below it; default: all of the host. */
  repository: z.string().min(1).max(1024).optional(),
};

/** POST /v1/credentials: kept in memory, never given back. The answer is an empty object. */
export const pushCredentials = z.union(
  [
    z.strictObject({ ...secretPlace, username: z.string().min(1).max(1024), password: secret }),
    z.strictObject({ ...secretPlace, token: secret }),
  ],
  { error: "give host, maybe repository, and username and password, or token" },
);
export type PushCredentials = z.infer<typeof pushCredentials>;
export const pushedAnswer = z.strictObject({});

/** DELETE /v1/credentials?host=HOST&repository=PREFIX */
export const dropCredentials = z.strictObject(secretPlace);
export type DropCredentials = z.infer<typeof dropCredentials>;
export const droppedAnswer = z.strictObject({ deleted: z.boolean() });

export const registeredImage = z.strictObject({
  reference: z.string(),
  manifestDigest: z.string(),
  fsid: z.string(),
  domainId: z.string(),
  /** Names for the `device=` options, in the superblock's order. */
  devices: z.array(z.string()),
  /** What to mount instead, at once, where images are files: the primary device, and the others. */
  files: z.strictObject({ primary: z.string(), devices: z.array(z.string()) }).optional(),
  sizeBytes: z.number(),
});
export type RegisteredImage = z.infer<typeof registeredImage>;

/** GET /v1/failures?key=KEY: the last failure of a key, for whoever saw only ENOBUFS. */
export const failureQuery = z.strictObject({ key: z.string().min(1).max(4096) });
export const failureAnswer = z.strictObject({
  failure: failure.extend({ atMs: z.number() }).optional(),
});
export type PastFailure = z.infer<typeof failureAnswer>["failure"];

/** GET /v1/trace?seconds=N&key=KEY: what readers ask for, as trace-format.ts has it, while it happens. */
export const traceQuery = z.strictObject({
  /** How long; default: until whoever asked goes away. */
  seconds: z.coerce.number().positive().max(86_400).optional(),
  /** Cookie keys or digests of streams; none: all. */
  key: z.array(z.string().min(1).max(252)).max(64).optional(),
  /** What is read of this image: an fsid, a reference or a manifest's digest. */
  image: z.string().min(1).max(4096).optional(),
});

/** GET /v1/images/{name}/files: a line for each file that has blocks of its own, then `end`. */
export const fileLine = z.union([
  z.strictObject({
    file: z.string(),
    /** Device (0: the primary one), offset and length in its stream. */
    parts: z.array(z.tuple([z.number(), z.number(), z.number()])),
  }),
  z.strictObject({ end: z.literal(true) }),
]);
export type FileLine = z.infer<typeof fileLine>;

/** GET /v1/status */
export const statusAnswer = z.strictObject({
  version: z.string(),
  pid: z.number(),
  ready: z.boolean(),
  kernelMessages: z.strictObject({
    open: z.number(),
    read: z.number(),
    /** Bytes that READs asked for: what was not cached when a reader came. */
    readBytes: z.number(),
    close: z.number(),
    malformed: z.number(),
  }),
  source: z.strictObject({ requests: z.number(), bytes: z.number(), failures: z.number() }),
  cache: z.strictObject({ writes: z.number(), writtenBytes: z.number() }),
  waitingReads: z.number(),
  objects: z.array(
    z.strictObject({ cookieKey: z.string(), cachedBytes: z.number(), sizeBytes: z.number() }),
  ),
});
export type Status = z.infer<typeof statusAnswer>;

/** GET /v1/health: that the daemon answers at all. */
export const healthAnswer = z.strictObject({
  status: z.literal("ok"),
  version: z.string(),
  pid: z.int(),
  /** Since the daemon's start. */
  uptimeSeconds: z.number(),
});
export type Health = z.infer<typeof healthAnswer>;

/** GET /v1/ready: 200 while the kernel's requests are served, else the error daemon_not_ready. */
export const readyAnswer = z.strictObject({ ready: z.literal(true) });

/** POST /v1/upgrade: the process that is about to take over. */
export const upgradeAnswer = z.strictObject({ pid: z.int() });

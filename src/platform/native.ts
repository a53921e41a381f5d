// SPDX-License-Identifier: Apache-2.0
// The addon with types: the only importer of native/. A call that fails throws (or rejects) a
// syscall_failed fault with the call's name and errno; a wrong argument is a TypeError or a
// RangeError. Bulk writes, seeks and decodes run on the addon's own threads, a bounded number at
// a time: one pool that waits for the disk, one with a thread per core.

import { availableParallelism, constants } from "node:os";
import type { Codec, InflateStart } from "../image/chunk-map.ts";
import { BLOCK_BYTES } from "../units.ts";
import { JobQueue } from "./job-queue.ts";
import { type Binding, type DecoderPool, checked, fault, loadBinding } from "./native-binding.ts";

/** Jobs a pool of the addon holds, running or queued; more wait in its JobQueue. */
const QUEUE_MAX = 256;
const NO_BYTES = new Uint8Array();

export interface NativeOptions {
  readonly writerThreads: number;
  /** Decodes that run at once: the number of cores, unless told otherwise. */
  readonly decoderThreads?: number;
  readonly queueMax?: number;
}

/**
 * One unit to decode. The arrays must stay unchanged until the job has settled, and `target` is
 * other memory than `source`.
 */
export interface DecodeJob {
  readonly codec: Codec;
  readonly source: Uint8Array;
  readonly sourceOffset: number;
  readonly sourceLength: number;
  /** At most 16 MiB; 1 GiB where one piece is all of them. */
  readonly decodedBytes: number;
  /** For `inflate`, where the unit does not begin at a member's deflate stream. */
  readonly start?: InflateStart | undefined;
  readonly target: Uint8Array;
  /**
   * Triples: from, length, targetOffset. Decoded bytes [from, from + length) are put at
   * targetOffset (a multiple of 4096), zeros follow to the next multiple of 4096 in `target`.
   * One piece that is all of the decoded bytes spares a copy.
   */
  readonly pieces: Uint32Array;
}

/** What came over a socket. The caller owns the fd, which has FD_CLOEXEC set. */
export interface Received {
  readonly bytes: Uint8Array;
  readonly fd: number | undefined;
}

export interface DecodeBatch {
  readonly source: Uint8Array;
  readonly target: Uint8Array;
  readonly units: readonly {
    readonly codec: Codec;
    readonly sourceOffset: number;
    readonly sourceLength: number;
    readonly decodedBytes: number;
    /** As in a DecodeJob. */
    readonly pieces: Uint32Array;
  }[];
}

/** Readiness of one fd, which it does not own: close the watcher before the fd. */
export interface FdWatcher {
  /** Idempotent; `onReady` is not called any more. */
  close(): void;
}

export interface Native {
  /** open(2), always with O_CLOEXEC. Returns the fd, which the caller owns. */
  open(path: string, flags: number): number;
  close(fd: number): void;
  /** Sets FD_CLOEXEC, for an fd that came over an exec. */
  closeOnExec(fd: number): void;
  /** One write(2): one cachefiles command. Returns the count. */
  write(fd: number, bytes: Uint8Array): number;
  /**
   * One read(2) of a cachefiles message; 0 when nothing is pending. The fd inside an OPEN
   * message has FD_CLOEXEC set when this returns.
   */
  readMessage(fd: number, buffer: Uint8Array): number;
  readComplete(fd: number, msgId: number): void;
  /** fanotify_init(2). Returns the group's fd, which the caller owns. */
  fanotifyInit(flags: number, eventFlags: number): number;
  /** fanotify_mark(2) on the file that `mark.fd` has open. */
  fanotifyMark(group: number, mark: { flags: number; mask: number; fd: number }): void;
  /** One read(2) of whole fanotify events; 0 when none is pending. The fds in them are the caller's. */
  readEvents(group: number, buffer: Uint8Array): number;
  /** True when somebody else, the kernel too, has fd's file open; `fd` is for reading and writing. */
  isOpenElsewhere(fd: number): boolean;
  /** SO_PEERCRED: the user id of who connected to a unix socket. */
  peerUid(fd: number): number;
  /** memfd_create(2): zeroed memory of that size, at most 1 GiB. Returns its fd, which the caller owns. */
  memfdCreate(name: string, bytes: number): number;
  /** All of a file, mapped shared; it stays when the fd is closed. */
  mapShared(fd: number): Uint8Array;
  /**
   * True when `number` is a placeholder of ours now, to be closed by the caller; false when
   * something else has that number, or no fd of this process can have it.
   */
  occupyFd(number: number): boolean;
  /** Calls `onReady` while `fd` is readable (level-triggered), with libuv's events or -errno. */
  watch(fd: number, onReady: (events: number) => void): FdWatcher;
  /** As `watch`, whenever `fd` has an exceptional condition (POLLPRI): of mountinfo, a change. */
  watchPriority(fd: number, onReady: (events: number) => void): FdWatcher;
  /** One poll(2) that does not wait: whether `fd` has an exceptional condition. */
  hasPriority(fd: number): boolean;
  /**
   * Writes all of it. Address, length and file offset are multiples of 4096, else it rejects
   * with a RangeError and writes nothing. `bytes` must stay unchanged until it settles.
   */
  pwriteAligned(
    fd: number,
    bytes: Uint8Array,
    range: { bytesOffset: number; length: number; fileOffset: number },
  ): Promise<void>;
  /** lseek(2); `whence` as in C (0 SET, 1 CUR, 2 END, 3 DATA, 4 HOLE). */
  seek(fd: number, to: { offset: number; whence: number }): Promise<number>;
  /**
   * The data within [from, sizeBytes): start, end, start, end, ... A full answer (2 * extentsMax
   * numbers) may not be all: ask again from its last end.
   */
  dataExtents(
    fd: number,
    within: { from: number; sizeBytes: number; extentsMax: number },
  ): Promise<Float64Array>;
  /**
   * Decodes a unit and puts its pieces in place. Rejects with EBADMSG when the source is not
   * exactly `decodedBytes` in that codec (`inflate`: at least so many, what follows is not looked
   * at; a member's end inside is stepped over); the pieces' places then hold anything.
   */
  decode(job: DecodeJob): Promise<void>;
  /**
   * Decodes several units that need no dictionary in one job: for small ones the way to a thread
   * and back costs more than the decoding. Resolves with 0 or -errno of each; rejects as `decode`
   * does for wrong arguments.
   */
  decodeMany(batch: DecodeBatch): Promise<Float64Array>;
  /**
   * Connects to a unix stream socket, sends all of `bytes`, `fd` with the first of them (a single
   * NUL when there are none), and closes. `fd` stays the caller's and open until it settles.
   * Faults: the errno of connect or sendmsg; ETIMEDOUT.
   */
  sendWithFd(
    socketPath: string,
    bytes: Uint8Array,
    fd: number | undefined,
    timeoutMs: number,
  ): Promise<void>;
  /**
   * Connects, sends `request` (with `fd`, as sendWithFd does), and reads until the peer closes. Of
   * the fds that come the first one is kept. Faults: as sendWithFd's, and of recvmsg; EMSGSIZE when more than `bytesMax` come.
   */
  receiveWithFd(
    socketPath: string,
    request: Uint8Array,
    timeoutMs: number,
    bytesMax: number,
    fd?: number,
  ): Promise<Received>;
  /** lsetxattr(2), off the event loop. */
  setAttribute(path: string, name: string, bytes: Uint8Array): Promise<void>;
  /** lgetxattr(2), off the event loop. Faults: ENODATA when it has none, ERANGE above `bytesMax`. */
  getAttribute(path: string, name: string, bytesMax: number): Promise<Uint8Array>;
  /** renameat2(2), off the event loop; EEXIST when `to` is there: nothing is ever replaced. */
  renameNew(from: string, to: string): Promise<void>;
  /**
   * Sends one datagram, with `fd` when there is one, to the unix socket whose sun_path is
   * `address`; never waits (EAGAIN: the receiver's queue is full). `fd` stays the caller's.
   */
  sendDatagram(address: Uint8Array, bytes: Uint8Array, fd: number | undefined): void;
  /** Zeroed memory that begins at a page boundary. */
  allocateAligned(bytes: number): Uint8Array;
  /**
   * Makes all of aligned memory at once, off the event loop: a page that is made when it is first
   * touched costs more, twenty times as much in a slow guest. What it holds stays as it is.
   * Faults: EINVAL before Linux 5.14, ENOMEM.
   */
  populate(bytes: Uint8Array): Promise<void>;
  /** Sizes, offsets and numbers of the kernel's ABI as the C compiler sees them. */
  layout(): Record<string, number | string>;
  /** Running jobs end, waiting ones reject with ECANCELED; settles when the threads are gone. */
  destroy(): Promise<void>;
}

/** Loads the addon and starts its writer threads. Fault: addon_missing. */
export function loadNative(options: NativeOptions): Native {
  const binding = loadBinding();
  const { writerThreads, decoderThreads, queueMax = QUEUE_MAX } = options;
  const pool = new JobQueue(binding.WriterPool, writerThreads, queueMax);
  const decoders = new JobQueue(
    binding.DecoderPool,
    decoderThreads ?? availableParallelism(),
    queueMax,
  );
  return {
    open: (path, flags) => checked("open", binding.open(path, flags), path),
    close: (fd) => void checked("close", binding.close(fd)),
    closeOnExec: (fd) => void checked("fcntl", binding.closeOnExec(fd)),
    write: (fd, bytes) => checked("write", binding.write(fd, bytes)),
    readMessage: (fd, buffer) => checked("read", binding.readMessage(fd, buffer)),
    readComplete: (fd, msgId) => void checked("ioctl", binding.readComplete(fd, msgId)),
    fanotifyInit: (flags, eventFlags) =>
      checked("fanotify_init", binding.fanotifyInit(flags, eventFlags)),
    fanotifyMark: (group, { flags, mask, fd }) =>
      void checked("fanotify_mark", binding.fanotifyMark(group, flags, mask, fd)),
    readEvents: (group, buffer) => checked("read", binding.readEvents(group, buffer)),
    peerUid: (fd) => checked("getsockopt", binding.peerUid(fd)),
    isOpenElsewhere: (fd) => checked("fcntl", binding.isOpenElsewhere(fd)) === 1,
    watch: (fd, onReady) => watchFd(binding, fd, { onReady, isPriority: false }),
    watchPriority: (fd, onReady) => watchFd(binding, fd, { onReady, isPriority: true }),
    hasPriority: (fd) => checked("poll", binding.hasPriority(fd)) === 1,
    async pwriteAligned(fd, bytes, { bytesOffset, length, fileOffset }) {
      await pool.run("pwrite", (jobs) =>
        jobs.pwrite(fd, bytes, bytesOffset, length, fileOffset, BLOCK_BYTES),
      );
    },
    seek: async (fd, { offset, whence }) =>
      Number(await pool.run("lseek", (jobs) => jobs.seek(fd, offset, whence))),
    async dataExtents(fd, { from, sizeBytes, extentsMax }) {
      const found = await pool.run("lseek", (jobs) =>
        jobs.extents(fd, from, sizeBytes, extentsMax),
      );
      return typeof found === "number" ? new Float64Array() : found;
    },
    decode: (job) => decode(decoders, job),
    decodeMany: (batch) => decodeMany(decoders, batch),
    ...socketCalls(binding),
    ...fileCalls(binding),
    ...takeoverCalls(binding),
    allocateAligned: (bytes) => binding.allocateAligned(bytes, true),
    async populate(bytes) {
      await pool.run("madvise", (jobs) => jobs.populate(bytes));
    },
    layout: () => binding.layout(),
    async destroy() {
      await Promise.all([pool.destroy(), decoders.destroy()]);
    },
  };
}

function watchFd(
  binding: Binding,
  fd: number,
  of: { readonly onReady: (events: number) => void; readonly isPriority: boolean },
): FdWatcher {
  const watcher = new binding.FdWatcher(fd, of.onReady, of.isPriority);
  checked("epoll_ctl", watcher.start());
  return { close: () => void watcher.close() };
}

function socketCalls(
  binding: Binding,
): Pick<Native, "sendWithFd" | "receiveWithFd" | "sendDatagram"> {
  return {
    async sendWithFd(socketPath, bytes, fd, timeoutMs) {
      const answer = await binding.exchange(socketPath, bytes, fd ?? -1, timeoutMs, -1);
      checked(answer[0], answer[1], socketPath);
    },
    async receiveWithFd(socketPath, request, timeoutMs, bytesMax, fd = -1) {
      const answer = await binding.exchange(socketPath, request, fd, timeoutMs, bytesMax);
      const [syscall, result, bytes, received] = answer;
      checked(syscall, result, socketPath);
      return { bytes, fd: received < 0 ? undefined : received };
    },
    sendDatagram: (address, bytes, fd) =>
      void checked("sendmsg", binding.sendDatagram(address, bytes, fd ?? -1)),
  };
}

function takeoverCalls(binding: Binding): Pick<Native, "memfdCreate" | "mapShared" | "occupyFd"> {
  return {
    memfdCreate: (name, bytes) => checked("memfd_create", binding.memfdCreate(name, bytes)),
    mapShared(fd) {
      const mapped = binding.mapShared(fd);
      if (typeof mapped !== "number") return mapped;
      throw fault("mmap", -mapped);
    },
    occupyFd(number) {
      const result = binding.occupyFd(number);
      if (result === -constants.errno.EINVAL || result === -constants.errno.EMFILE) return false;
      return checked("dup", result) === 1;
    },
  };
}

type FileCalls = Pick<Native, "setAttribute" | "getAttribute" | "renameNew">;

function fileCalls(binding: Binding): FileCalls {
  return {
    async setAttribute(path, name, bytes) {
      checked("lsetxattr", await binding.setAttribute(path, name, bytes), path);
    },
    async getAttribute(path, name, bytesMax) {
      const [result, bytes] = await binding.getAttribute(path, name, bytesMax);
      checked("lgetxattr", result, path);
      return bytes;
    },
    async renameNew(from, to) {
      checked("renameat2", await binding.renameNew(from, to), to);
    },
  };
}

/** The numbers of the codecs in native/src/decode.h. */
const CODECS = { none: 0, lz4_block: 1, zstd: 2, inflate: 3 } as const satisfies Record<
  Codec,
  number
>;

async function decode(decoders: JobQueue<DecoderPool>, job: DecodeJob): Promise<void> {
  await decoders.run("decode", (jobs) =>
    jobs.decode(
      CODECS[job.codec],
      job.source,
      job.sourceOffset,
      job.sourceLength,
      job.decodedBytes,
      job.start?.dictionary ?? NO_BYTES,
      job.start?.bits ?? 0,
      job.start?.byte ?? 0,
      job.target,
      job.pieces,
    ),
  );
}

async function decodeMany(
  decoders: JobQueue<DecoderPool>,
  { source, target, units }: DecodeBatch,
): Promise<Float64Array> {
  const numbers = units.flatMap(({ codec, sourceOffset, sourceLength, decodedBytes, pieces }) => [
    CODECS[codec],
    sourceOffset,
    sourceLength,
    decodedBytes,
    pieces.length / 3,
    ...pieces,
  ]);
  const flat = Uint32Array.from(numbers);
  const results = await decoders.run("decode", (jobs) => jobs.decodeMany(source, target, flat));
  return typeof results === "number" ? new Float64Array() : results;
}

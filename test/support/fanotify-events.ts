// SPDX-License-Identifier: Apache-2.0
// fanotify events as a kernel writes them. Written from the header, not from the parser.

export interface EventFields {
  readonly fd: number;
  readonly pid: number;
  readonly offset: bigint;
  readonly count: bigint;
  readonly version?: number;
  readonly mask?: bigint;
  /** Info records that come first. */
  readonly before?: Uint8Array;
  /** No info records at all. */
  readonly isBare?: boolean;
}

export function eventBytes(of: EventFields): Buffer {
  const range = Buffer.alloc(24);
  range.writeUInt8(6, 0);
  range.writeUInt16LE(24, 2);
  range.writeBigUInt64LE(of.offset, 8);
  range.writeBigUInt64LE(of.count, 16);
  const infos = of.isBare === true ? [] : [of.before ?? Buffer.alloc(0), range];
  const header = Buffer.alloc(24);
  header.writeUInt32LE(24 + infos.reduce((sum, { length }) => sum + length, 0), 0);
  header.writeUInt8(of.version ?? 3, 4);
  header.writeUInt16LE(24, 6);
  header.writeBigUInt64LE(of.mask ?? 0x100000n, 8);
  header.writeInt32LE(of.fd, 16);
  header.writeInt32LE(of.pid, 20);
  return Buffer.concat([header, ...infos]);
}

// SPDX-License-Identifier: Apache-2.0
// What a supervisor keeps of a daemon: bytes that only daemons read. Ours is JSON with a version.
// nydusd's (a `snapshot` crate image around its singleton state) is read too, so that a running
// nydusd can be replaced without unmounting; little endian:
//
//   magic 0x0710198486640001 (u64), data version (u16), entries (u64), each: key length (u64), key,
//   json length (u64), json; threads (u64), directory length (u64), directory;
//   CRC-64/Jones of all before (u64)

import { isJson } from "./bind-fields.ts";
import { crc64 } from "./crc64.ts";

const FORMAT = "erofsd-nydusd";
const VERSION = 1;
const NYDUSD_MAGIC = Buffer.from("0100648684191007", "hex");
const NYDUSD_VERSION = 1;

export interface SavedState {
  readonly serial: number;
  readonly threads: number;
  readonly fscacheDir: string;
  /** Bind bodies, secrets included. */
  readonly images: readonly unknown[];
  /** Of nydusd's own writing: a name for exactly this state. */
  readonly foreign: string | undefined;
}

/** A state that no daemon we know has written, or not to its end. */
export class StateDamaged extends Error {
  override readonly name = "StateDamaged";
}

export function formatState(state: Omit<SavedState, "foreign">): Uint8Array {
  const { serial, threads, fscacheDir, images } = state;
  const document = { format: FORMAT, version: VERSION, serial, threads, fscacheDir, images };
  return Buffer.from(JSON.stringify(document));
}

/** Throws StateDamaged. */
export function parseState(bytes: Uint8Array): SavedState {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (buffer.subarray(0, 8).equals(NYDUSD_MAGIC)) return parseNydusd(buffer);
  return parseOwn(buffer);
}

function parseOwn(buffer: Buffer): SavedState {
  let value: unknown;
  try {
    value = JSON.parse(buffer.toString("utf8"));
  } catch {
    throw new StateDamaged(`${buffer.length} bytes that are neither erofsd's nor nydusd's`);
  }
  if (!isJson(value) || value["format"] !== FORMAT) {
    throw new StateDamaged("it is not a state of erofsd");
  }
  if (value["version"] !== VERSION) {
    throw new StateDamaged(`it has version ${String(value["version"])}, known is ${VERSION}`);
  }
  const { serial, threads, fscacheDir, images } = value;
  if (
    typeof serial !== "number" ||
    typeof threads !== "number" ||
    typeof fscacheDir !== "string" ||
    !Array.isArray(images)
  ) {
    throw new StateDamaged("a field is missing");
  }
  return { serial, threads, fscacheDir, images, foreign: undefined };
}

function parseNydusd(buffer: Buffer): SavedState {
  const end = buffer.length - 8;
  const reader = new Reader(buffer.subarray(0, Math.max(end, 0)));
  if (end < 8 || crc64(buffer.subarray(0, end)) !== buffer.readBigUInt64LE(end)) {
    throw new StateDamaged("nydusd's state has a wrong checksum");
  }
  reader.skip(NYDUSD_MAGIC.length);
  const version = reader.u16();
  if (version !== NYDUSD_VERSION) throw new StateDamaged(`nydusd's state has version ${version}`);
  const images: unknown[] = [];
  for (let left = reader.u64(); left > 0; left -= 1) {
    reader.text();
    images.push(parseEntry(reader.text()));
  }
  const threads = reader.u64();
  const fscacheDir = reader.text();
  const foreign = buffer.subarray(end).toString("hex");
  return { serial: 0, threads, fscacheDir, images, foreign };
}

function parseEntry(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new StateDamaged("nydusd's state has an entry that is no JSON");
  }
}

class Reader {
  readonly #buffer: Buffer;
  #at = 0;

  constructor(buffer: Buffer) {
    this.#buffer = buffer;
  }

  skip(bytes: number): number {
    const at = this.#at;
    if (at + bytes > this.#buffer.length) throw new StateDamaged("nydusd's state ends too early");
    this.#at = at + bytes;
    return at;
  }

  u16(): number {
    return this.#buffer.readUInt16LE(this.skip(2));
  }

  u64(): number {
    return Number(this.#buffer.readBigUInt64LE(this.skip(8)));
  }

  text(): string {
    const length = this.u64();
    const at = this.skip(length);
    return this.#buffer.subarray(at, at + length).toString("utf8");
  }
}

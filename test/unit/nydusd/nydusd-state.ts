// SPDX-License-Identifier: Apache-2.0
// A state as nydusd writes it, for tests: the layout is in src/nydusd/state-format.ts.

import type { Json } from "../../../src/nydusd/bind-fields.ts";
import { crc64 } from "../../../src/nydusd/crc64.ts";

export function nydusdState(bodies: readonly Json[], fscacheDir = "/cache"): Buffer {
  const entries = bodies.flatMap((body) => [
    counted(`${String(body["domain_id"])}/${String(body["id"])}`),
    counted(JSON.stringify(body)),
  ]);
  const version = Buffer.alloc(2);
  version.writeUInt16LE(1);
  const before = Buffer.concat([
    Buffer.from("0100648684191007", "hex"),
    version,
    u64(BigInt(bodies.length)),
    ...entries,
    u64(4n),
    counted(fscacheDir),
  ]);
  return Buffer.concat([before, u64(crc64(before))]);
}

function counted(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([u64(BigInt(bytes.length)), bytes]);
}

function u64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return bytes;
}

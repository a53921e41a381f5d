// SPDX-License-Identifier: Apache-2.0
// A loopback address to listen at. Others are refused: what listens there asks for no password.

import { BlockList, isIP } from "node:net";
import * as z from "zod";

export interface ListenAddress {
  readonly host: string;
  readonly port: number;
}

const loopback = new BlockList();
loopback.addSubnet("127.0.0.0", 8, "ipv4");
loopback.addAddress("::1", "ipv6");

export const loopbackAddress = z
  .string()
  .refine(
    (text) => parseAddress(text) !== undefined,
    "127.0.0.1:PORT or [::1]:PORT, of this machine alone",
  );

/** Undefined when it is none of loopback's. Names are none: what they stand for may change. */
export function parseAddress(text: string): ListenAddress | undefined {
  const [, bracketed, plain, digits] =
    /^(?:\[([^\]]+)\]|([^:[\]]+)):([0-9]{1,5})$/.exec(text) ?? [];
  const host = bracketed ?? plain ?? "";
  const family = isIP(host);
  const port = Number(digits);
  if (family === 0 || port > 65_535 || (family === 6) !== (bracketed !== undefined))
    return undefined;
  return loopback.check(host, family === 6 ? "ipv6" : "ipv4") ? { host, port } : undefined;
}

export function formatAddress({ host, port }: ListenAddress): string {
  return isIP(host) === 6 ? `[${host}]:${port}` : `${host}:${port}`;
}

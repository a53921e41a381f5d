// SPDX-License-Identifier: Apache-2.0
// Where a daemon is asked, as one text: the path of its socket, or its loopback address and the file
// of its token, `http://127.0.0.1:9463#/etc/erofsd/token`.

import { formatAddress, parseAddress } from "../config/listen-address.ts";
import { DaemonError } from "../errors.ts";

const SCHEME = "http://";

export type DaemonPlace =
  | { readonly socketPath: string }
  | { readonly host: string; readonly port: number; readonly tokenFile: string };

/** True for what is no path. */
export function isAddress(text: string): boolean {
  return text.startsWith(SCHEME);
}

/** Fault: usage_invalid for an address that is not loopback's: a token is sent there in clear text. */
export function placeText(address: string, tokenFile: string): string {
  return `${SCHEME}${formatAddress(addressOf(address))}#${tokenFile}`;
}

export function parsePlace(text: string): DaemonPlace {
  if (!isAddress(text)) return { socketPath: text };
  const [address = "", tokenFile = ""] = text.split(/#(.*)/s);
  return { ...addressOf(address), tokenFile };
}

/** For people. */
export function placeName(text: string): string {
  return isAddress(text) ? (text.split("#")[0] ?? "") : text;
}

function addressOf(text: string) {
  const found = parseAddress(text.slice(SCHEME.length).replace(/\/$/, ""));
  if (found !== undefined) return found;
  const detail = `${text}: write http://127.0.0.1:PORT or http://[::1]:PORT`;
  throw new DaemonError({ code: "usage_invalid", detail });
}

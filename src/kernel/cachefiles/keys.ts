// SPDX-License-Identifier: Apache-2.0
// What may stand in a volume key and a cookie key. Longer or odd keys hit kernel bugs that
// the daemon cannot stop once mount(2) has run, so whoever mounts asks here first.
// Pure. Source: fs/cachefiles/key.c; experiments in kernel-notes/cachefiles-keys.md.

/** `fsid` and `device=` names (with a domain_id): 253 bytes and more BUG the kernel. */
const COOKIE_KEY_BYTES_MAX = 252;
/** A cookie key that has to be encoded on disk is cut at 255 encoded bytes: two such keys can share a file. */
const ENCODED_KEY_BYTES_MAX = 189;
/** The part after `erofs,`: the domain_id, or an fsid without one. */
const VOLUME_PART_BYTES_MAX = 248;

const PLAIN_KEY = /^[!-.0-~\x7f]+$/;

/** Why this cookie key must not reach the kernel; undefined when it may. */
export function cookieKeyProblem(key: string): string | undefined {
  const bytes = Buffer.byteLength(key);
  if (bytes === 0) return "it is empty";
  if (key.includes("\0")) return "it holds a NUL";
  if (bytes > COOKIE_KEY_BYTES_MAX) {
    return `${bytes} bytes are more than the ${COOKIE_KEY_BYTES_MAX} that the kernel survives`;
  }
  if (!PLAIN_KEY.test(key) && bytes > ENCODED_KEY_BYTES_MAX) {
    return `${bytes} bytes with "/", blanks or non-ASCII characters are more than the ${ENCODED_KEY_BYTES_MAX} that the kernel keeps apart`;
  }
  return undefined;
}

/** Why this domain_id (or fsid without a domain) must not reach the kernel; undefined when it may. */
export function volumePartProblem(part: string): string | undefined {
  const bytes = Buffer.byteLength(part);
  if (bytes === 0) return "it is empty";
  if (part.includes("\0")) return "it holds a NUL";
  if (part.includes("/")) return 'it holds a "/"';
  if (bytes > VOLUME_PART_BYTES_MAX) {
    return `${bytes} bytes are more than the ${VOLUME_PART_BYTES_MAX} that the kernel takes`;
  }
  return undefined;
}

const VOLUME_PREFIX = "erofs,";

/** The volume key the kernel makes of a domain_id. */
export function volumeKeyOf(domainId: string): string {
  return `${VOLUME_PREFIX}${domainId}`;
}

/** What volumeKeyOf was given; undefined for another filesystem's volume. */
export function domainIdOf(volumeKey: string): string | undefined {
  return volumeKey.startsWith(VOLUME_PREFIX) ? volumeKey.slice(VOLUME_PREFIX.length) : undefined;
}

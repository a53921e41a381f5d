// SPDX-License-Identifier: Apache-2.0
// What a user writes to name an image, as a value: `host[:port]/repo[:tag][@digest]` for a
// registry, `oci:PATH[:tag][@digest]` for an OCI image-layout directory, `rafs:PATH[?blobs=DIR]`
// for a Nydus bootstrap and the directory of its blobs. The host is never
// guessed. Grammar of names, tags: OCI distribution-spec "Pulling manifests". Parsed by hand, in
// linear time: the expressions of the usual packages backtrack without end on 30 letters and a `!`,
// and a reference may come from whoever can mount.

import { DaemonError } from "../../errors.ts";
import { type Digest, isDigest } from "../../units.ts";

export interface RegistryReference {
  readonly kind: "registry";
  /** Lower case, with the port when one was written; `[v6]` in brackets. */
  readonly host: string;
  readonly repository: string;
  readonly tag: string | undefined;
  /** When both are given, the digest decides. */
  readonly digest: Digest | undefined;
}

export interface LayoutReference {
  readonly kind: "layout";
  /** As written; whoever knows a working directory makes it absolute. */
  readonly path: string;
  readonly tag: string | undefined;
  readonly digest: Digest | undefined;
}

/** A bootstrap as `nydus-image create` writes it: no manifest, no layers. */
export interface BootstrapReference {
  readonly kind: "bootstrap";
  /** As written, like a layout's. */
  readonly path: string;
  /** Of files named by their blob ids; undefined: that of the bootstrap. */
  readonly blobDirectory: string | undefined;
}

/** What has a manifest. */
export type Reference = RegistryReference | LayoutReference;

const LAYOUT_PREFIX = "oci:";
const BOOTSTRAP_PREFIX = "rafs:";
const BLOBS_PARAMETER = "?blobs=";
const REFERENCE_LENGTH_MAX = 4096;
/** The common registries refuse longer names; also keeps a reference inside the kernel's keys. */
const NAME_LENGTH_MAX = 255;
const DEFAULT_TAG = "latest";

// Each separator is mandatory and shares no character with its neighbours: no backtracking.
const REPOSITORY_PART = /^[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*$/;
const TAG = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;
const HOST_NAME_PART = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;
const HOST_V6 = /^\[[0-9a-f:.]{2,45}\]$/;
const PORT = /^[0-9]{1,5}$/;

/** Throws reference_invalid, whose detail says which part is wrong. */
export function parseReference(text: string): Reference | BootstrapReference {
  const fail = failer(text);
  if (text.length === 0) throw fail("it is empty");
  if (text.length > REFERENCE_LENGTH_MAX) throw fail("it is too long");
  if (hasControl(text)) throw fail("it has control characters");
  if (text.startsWith(BOOTSTRAP_PREFIX)) return parseBootstrap(text, fail);
  return text.startsWith(LAYOUT_PREFIX) ? parseLayout(text, fail) : parseRegistry(text, fail);
}

/** One spelling for one meaning: the digest alone when there is one, else an explicit tag. */
export function formatReference(reference: Reference | BootstrapReference): string {
  if (reference.kind === "bootstrap") {
    const { path, blobDirectory } = reference;
    const blobs = blobDirectory === undefined ? "" : `${BLOBS_PARAMETER}${blobDirectory}`;
    return `${BOOTSTRAP_PREFIX}${path}${blobs}`;
  }
  const name =
    reference.kind === "registry"
      ? `${reference.host}/${reference.repository}`
      : `${LAYOUT_PREFIX}${reference.path}`;
  if (reference.digest !== undefined) return `${name}@${reference.digest}`;
  const tag = reference.tag ?? (reference.kind === "registry" ? DEFAULT_TAG : undefined);
  return tag === undefined ? name : `${name}:${tag}`;
}

/**
 * What to ask a Source for: the digest, else the tag, else `latest`; for a layout without
 * either, the empty string, which means "its only manifest".
 */
export function wantedOf(reference: Reference): string {
  const fallback = reference.kind === "registry" ? DEFAULT_TAG : "";
  return reference.digest ?? reference.tag ?? fallback;
}

export function isRepository(text: string): boolean {
  return (
    text.length <= NAME_LENGTH_MAX && text.split("/").every((part) => REPOSITORY_PART.test(part))
  );
}

export function isTag(text: string): boolean {
  return TAG.test(text);
}

type Failer = (detail: string) => DaemonError;

function failer(reference: string): Failer {
  const shown = reference.length > 200 ? `${reference.slice(0, 200)}...` : reference;
  return (detail) =>
    new DaemonError({
      code: "reference_invalid",
      reference: printable(withoutUser(shown)),
      detail,
    });
}

/** As in a URL: what stands before the host is a password as like as not. */
function withoutUser(text: string): string {
  if (text.startsWith(LAYOUT_PREFIX) || text.startsWith(BOOTSTRAP_PREFIX)) return text;
  return text.replace(/^.*@(?=[^@]*\/)/, "[secret]@");
}

function parseRegistry(text: string, fail: Failer): RegistryReference {
  const { rest, digest } = splitDigest(text, fail);
  if (withoutUser(rest) !== rest) {
    throw fail("it has no place for credentials: see `erofsd login --help`");
  }
  const slash = rest.indexOf("/");
  const host = slash === -1 ? "" : rest.slice(0, slash).toLowerCase();
  if (!looksLikeHost(host)) {
    throw fail("write the registry's host before the repository, as in registry.example/app");
  }
  checkHost(host, fail);
  const { name, tag } = splitTag(rest.slice(slash + 1), fail);
  if (name === "") throw fail("the repository is missing");
  if (!isRepository(name)) {
    throw fail(
      name === name.toLowerCase()
        ? `"${name}" is not a repository name`
        : "the repository must be lower case",
    );
  }
  return { kind: "registry", host, repository: name, tag, digest };
}

function parseLayout(text: string, fail: Failer): LayoutReference {
  const { rest, digest } = splitDigest(text.slice(LAYOUT_PREFIX.length), fail);
  const { name, tag } = splitTag(rest, fail);
  if (name === "") throw fail("the path of the layout directory is missing");
  return { kind: "layout", path: name, tag, digest };
}

function parseBootstrap(text: string, fail: Failer): BootstrapReference {
  const [path = "", blobDirectory, ...more] = text
    .slice(BOOTSTRAP_PREFIX.length)
    .split(BLOBS_PARAMETER);
  if (path === "") throw fail("the path of the bootstrap is missing");
  if (blobDirectory === "" || more.length > 0) throw fail("after ?blobs= comes one directory");
  return { kind: "bootstrap", path, blobDirectory };
}

function splitDigest(text: string, fail: Failer): { rest: string; digest: Digest | undefined } {
  const at = text.lastIndexOf("@");
  // A layout's path may contain `@` in a directory's name.
  if (at === -1 || text.indexOf("/", at) !== -1) return { rest: text, digest: undefined };
  const digest = text.slice(at + 1);
  if (!isDigest(digest)) {
    throw fail("after @ comes sha256: and 64 lower-case hex digits");
  }
  return { rest: text.slice(0, at), digest };
}

/** The tag is what follows the last colon behind the last slash. */
function splitTag(text: string, fail: Failer): { name: string; tag: string | undefined } {
  const colon = text.indexOf(":", text.lastIndexOf("/") + 1);
  if (colon === -1) return { name: text, tag: undefined };
  const tag = text.slice(colon + 1);
  if (!isTag(tag)) throw fail(`"${printable(tag)}" is not a tag`);
  return { name: text.slice(0, colon), tag };
}

/** A first part without dot, colon or the name localhost is a repository, not a host. */
function looksLikeHost(part: string): boolean {
  return part === "localhost" || part.includes(".") || part.includes(":");
}

function checkHost(host: string, fail: Failer): void {
  const colon = host.startsWith("[") ? host.indexOf(":", host.indexOf("]")) : host.indexOf(":");
  const name = colon === -1 ? host : host.slice(0, colon);
  if (colon !== -1) {
    const port = host.slice(colon + 1);
    const valid = PORT.test(port) && Number(port) >= 1 && Number(port) <= 65_535;
    if (!valid) throw fail(`"${port}" is not a port`);
  }
  const valid = name.startsWith("[")
    ? HOST_V6.test(name)
    : name.length <= 253 && name.split(".").every((part) => HOST_NAME_PART.test(part));
  if (!valid) throw fail(`"${name}" is not a host name`);
}

function hasControl(text: string): boolean {
  for (let index = 0; index < text.length; index += 1) {
    const unit = text.charCodeAt(index);
    if (unit < 0x20 || unit === 0x7f) return true;
  }
  return false;
}

function printable(text: string): string {
  // oxlint-disable-next-line no-control-regex -- control characters are what is replaced
  return text.replace(/[\u0000-\u001f\u007f]/g, "?");
}

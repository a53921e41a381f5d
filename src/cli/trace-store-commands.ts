// SPDX-License-Identifier: Apache-2.0
// `erofsd trace show`, `push` and `pull`: a trace in a file, and the same beside its image in a
// registry. They speak to the registry themselves, with the credentials of whoever calls.

import { open, stat } from "node:fs/promises";
import { homedir, arch } from "node:os";
import { loadConfigOrDefault } from "../config/config.ts";
import { DaemonError } from "../errors.ts";
import { machinePlatform } from "../image/oci/platform.ts";
import { type RegistryReference, formatReference, parseReference } from "../image/oci/reference.ts";
import { OCI_MANIFEST } from "../image/oci/media-types.ts";
import { distinctBytes, fileShares } from "../image/trace-files.ts";
import { TRACE_BYTES_MAX, type Trace, parseTrace } from "../image/trace-format.ts";
import { systemClock as clock } from "../platform/clock.ts";
import { createRegistry } from "../registry.ts";
import { AccessBook } from "../source/registry/access.ts";
import { takeEnvironment } from "../source/registry/credentials/environment.ts";
import { PushedCredentials } from "../source/registry/credentials/pushed.ts";
import type { RegistrySource } from "../source/registry/push.ts";
import { resolveImage } from "../source/resolve-image.ts";
import type { FetchOptions } from "../source/source.ts";
import { findTrace, storeTrace } from "../source/traces.ts";
import { type Output, jsonLine, size, styleOf, table } from "./output.ts";
import { ofFile, writeWhole } from "./trace-command.ts";

const TIMEOUT_MS = 120_000;

interface Given {
  /** A configuration file, for how registries are reached; undefined: the default one, if there. */
  readonly config?: string | undefined;
}

/** Lists what a trace is about. `from`: a file, or the reference of an image that has one. */
export async function showTrace(
  given: Given & { readonly from: string; readonly json: boolean },
  output: Output = process.stdout,
): Promise<void> {
  const trace = await traceFrom(given);
  const files = fileShares(trace);
  const { image, startedAt, reads, streams, dropped } = trace;
  const bytes = distinctBytes(reads);
  if (given.json) {
    const shown = streams.map(({ digest, sizeBytes }) => ({ digest, sizeBytes }));
    const about = { image, startedAt, reads: reads.length, bytes, dropped };
    output.write(jsonLine({ ...about, streams: shown, files }));
    return;
  }
  const rows = files.map(({ path, reads: count, bytes: own, firstMs }) => [
    `${(firstMs / 1000).toFixed(3)} s`,
    String(count),
    size(own),
    path,
  ]);
  output.write(table(["FIRST", "READS", "BYTES", "FILE"], rows, styleOf(output)));
  const missing = dropped === 0 ? "" : `, ${dropped} reads missing`;
  const of = image === undefined ? "" : ` of ${image.reference}`;
  output.write(`${size(bytes)} in ${files.length} files, ${reads.length} reads${missing}${of}\n`);
}

/** Faults: trace_invalid (also when it is of another image), registry_*, manifest_*. */
export async function pushTrace(
  given: Given & { readonly file: string; readonly reference: string; readonly json: boolean },
  output: Output = process.stdout,
): Promise<void> {
  const { file, json } = given;
  const text = await readTraceFile(file);
  const trace = parseTrace(text, file);
  const reference = registryReference(given.reference);
  const digest = await withRegistry(given, async (registry, options) => {
    const { origin, manifest } = await imageOf(registry, reference, options);
    checkIsOf(trace, { manifestDigest: manifest.digest, reference, where: file });
    const subject = {
      mediaType: manifest.mediaType === "" ? OCI_MANIFEST : manifest.mediaType,
      digest: manifest.digest,
      size: manifest.bytes.length,
    };
    const at = { origin, subject, createdAt: new Date().toISOString() };
    return storeTrace(registry, at, { text: Buffer.from(text), options });
  });
  const name = formatReference({ ...reference, digest });
  output.write(json ? jsonLine({ reference: name, digest }) : `${name}\n`);
}

/** Faults: trace_missing, trace_invalid, registry_*, manifest_*. */
export async function pullTrace(
  given: Given & { readonly reference: string; readonly output: string | undefined },
  output: Output = process.stdout,
): Promise<void> {
  const { text, where } = await pulledText(given, registryReference(given.reference));
  // What is stored must be a trace before anybody gets it.
  parseTrace(text, where);
  if (given.output === undefined) output.write(text);
  else await writeWhole(given.output, text);
}

async function traceFrom(given: Given & { readonly from: string }): Promise<Trace> {
  const { from } = given;
  const isFile = await stat(from).catch(() => undefined);
  if (isFile !== undefined || !from.includes("/") || /^[./]/.test(from)) {
    return parseTrace(await readTraceFile(from), from);
  }
  const { text, where } = await pulledText(given, registryReference(from));
  return parseTrace(text, where);
}

async function readTraceFile(path: string): Promise<string> {
  try {
    const handle = await open(path, "r");
    try {
      const found = await handle.stat();
      const detail = found.isFile()
        ? `it has ${found.size} bytes, more than ${TRACE_BYTES_MAX}`
        : "it is no regular file";
      if (!found.isFile() || found.size > TRACE_BYTES_MAX) {
        throw new DaemonError({ code: "trace_invalid", where: path, detail });
      }
      return await handle.readFile("utf8");
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw ofFile(error, path);
  }
}

async function pulledText(given: Given, reference: RegistryReference) {
  const where = formatReference(reference);
  const found = await withRegistry(given, async (registry, options) => {
    const { origin, manifest } = await imageOf(registry, reference, options);
    return findTrace(registry, { origin, subject: manifest.digest }, options);
  });
  if (found === undefined) throw new DaemonError({ code: "trace_missing", reference: where });
  return { text: Buffer.from(found.bytes).toString("utf8"), where: `the trace of ${where}` };
}

/** The image as this machine mounts it: of an index, the entry that is for it. */
function imageOf(registry: RegistrySource, reference: RegistryReference, options: FetchOptions) {
  return resolveImage(registry, reference, machinePlatform(arch()), options);
}

function checkIsOf(
  { image }: Trace,
  of: { manifestDigest: string; reference: RegistryReference; where: string },
): void {
  const { manifestDigest, where } = of;
  if (image?.manifestDigest === manifestDigest) return;
  const detail =
    image === undefined
      ? "it is of no image: record it with `erofsd trace record MOUNT`"
      : `it is of ${image.reference} (${image.manifestDigest}), not of ${formatReference(of.reference)} (${manifestDigest})`;
  throw new DaemonError({ code: "trace_invalid", where, detail });
}

function registryReference(text: string): RegistryReference {
  const reference = parseReference(text);
  if (reference.kind === "registry") return reference;
  const detail = "a trace is kept in a registry: write host[:port]/repo[:tag][@digest]";
  throw new DaemonError({ code: "reference_invalid", reference: text, detail });
}

async function withRegistry<T>(
  { config: path }: Given,
  use: (registry: RegistrySource, options: FetchOptions) => Promise<T>,
): Promise<T> {
  const config = await loadConfigOrDefault(path);
  const registry = createRegistry({
    config,
    log: QUIET,
    access: new AccessBook(),
    pushed: new PushedCredentials(),
    environment: takeEnvironment(process.env, homedir()),
    observe: {},
  });
  const { signal } = new AbortController();
  try {
    return await use(registry, { signal, deadlineMs: clock.nowMs() + TIMEOUT_MS });
  } finally {
    await registry.close();
  }
}

/** What goes wrong in the end is the command's error. */
const QUIET = { debug: () => undefined, warn: () => undefined };

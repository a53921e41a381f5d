// SPDX-License-Identifier: Apache-2.0
// Parsers of what users and registries write.
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseDocument } from "../../src/image/oci/manifest.ts";
import { planImage } from "../../src/image/oci/plan-image.ts";
import { candidateEntries } from "../../src/image/oci/platform.ts";
import { formatReference, parseReference } from "../../src/image/oci/reference.ts";
import { parseContentRange, rangeHeader } from "../../src/source/registry/range-request.ts";
import { parseRetryAfter } from "../../src/source/registry/retry.ts";
import { parseChallenges } from "../../src/source/registry/www-authenticate.ts";
import { fuzzParameters, mutated, valueOrFault, withoutOverreach } from "../support/fuzz.ts";
import { OCI_INDEX, OCI_MANIFEST, buildImage, buildIndex, digestOf } from "../support/oci-image.ts";

const DIGEST = digestOf(Uint8Array.of(1));

/** Strings of whole words of a grammar in any order, which random characters hardly ever make. */
function phrases(words: readonly string[], maxLength = 12): fc.Arbitrary<string> {
  const word = fc.oneof(
    { weight: 4, arbitrary: fc.constantFrom(...words) },
    fc.string({ unit: "binary", maxLength: 3 }),
  );
  return fc.array(word, { maxLength }).map((parts) => parts.join(""));
}

describe("references", () => {
  const words = [
    "oci:",
    "/",
    ":",
    "@",
    DIGEST,
    "localhost",
    "[::1]",
    "5000",
    "app",
    ".",
    "-",
    "__",
    "A",
    "v1",
  ];
  const texts = fc.oneof(phrases(words), fc.string({ unit: "binary", maxLength: 400 }));

  it("give a value or a fault, and their canonical form means the same", () => {
    const property = fc.property(texts, (text) => {
      const reference = valueOrFault(() => parseReference(text));
      if (reference === undefined) return;
      const canonical = formatReference(reference);
      expect(formatReference(parseReference(canonical))).toBe(canonical);
    });
    fc.assert(property, fuzzParameters());
  });

  it("never take long", () => {
    const repeated = fc
      .tuple(fc.constantFrom(...words), fc.nat(4_000), fc.constantFrom("", "!", "/", ":"))
      .map(([word, count, end]) => `localhost/${word.repeat(count)}${end}`);
    const property = fc.property(repeated, (text) => {
      const begin = performance.now();
      valueOrFault(() => parseReference(text));
      expect(performance.now() - begin).toBeLessThan(1_000);
    });
    fc.assert(property, { numRuns: 200 });
  });
});

const erofs = { bytes: Uint8Array.of(1), mediaType: "application/vnd.erofs" };
const image = buildImage([
  { ...erofs, annotations: { "org.erofs.role": "device" } },
  { ...erofs, bytes: Uint8Array.of(2) },
]);
const index = buildIndex([
  {
    ...image.descriptor,
    platform: { os: "linux", architecture: "amd64", "os.features": ["erofs"] },
  },
]);

/** The whole way of a document, as resolving does it. */
function choose(bytes: Uint8Array): unknown {
  const document = parseDocument({ bytes, mediaType: OCI_MANIFEST, where: "x" });
  return document.kind === "manifest"
    ? planImage(document.manifest, { manifestDigest: DIGEST, where: "x" })
    : candidateEntries(document.index, { os: "linux", architecture: "amd64" }, "x");
}

describe("manifests and indexes", () => {
  it("give a value or a fault when bytes are changed", () => {
    for (const { bytes } of [image.manifest, index]) {
      const property = fc.property(mutated(bytes, bytes.length), (input) =>
        withoutOverreach(input, choose),
      );
      fc.assert(property, fuzzParameters());
    }
  });

  it("give a value or a fault for any JSON", () => {
    const json = fc.jsonValue({ maxDepth: 4 });
    const field = fc.oneof(json, fc.constantFrom(2, OCI_MANIFEST, OCI_INDEX, DIGEST, "__proto__"));
    const descriptor = fc.record(
      {
        mediaType: fc.constantFrom("application/vnd.erofs", OCI_MANIFEST, "", "a.nydus.b"),
        digest: fc.oneof(fc.constant(DIGEST), field),
        size: fc.oneof(fc.integer(), field),
        annotations: fc.oneof(
          fc.dictionary(fc.constantFrom("org.erofs.role", "__proto__", "a"), field),
        ),
        platform: fc.record(
          {
            os: fc.constant("linux"),
            architecture: fc.constant("amd64"),
            variant: field,
            "os.features": field,
          },
          { requiredKeys: ["os"] },
        ),
      },
      { requiredKeys: [] },
    );
    const list = fc.oneof(fc.array(descriptor, { maxLength: 4 }), field);
    const document = fc.oneof(
      json,
      fc.record(
        {
          schemaVersion: fc.oneof(fc.constant(2), field),
          mediaType: field,
          config: fc.oneof(descriptor, field),
          layers: list,
          manifests: list,
        },
        { requiredKeys: ["schemaVersion"] },
      ),
    );
    const property = fc.property(document, (value) => {
      valueOrFault(() => choose(new TextEncoder().encode(JSON.stringify(value))));
    });
    fc.assert(property, fuzzParameters());
  });
});

describe("headers", () => {
  it("Content-Range is a range within its total, or nothing", () => {
    const texts = phrases(["bytes", " ", "-", "/", "*", "0", "9", "99", "9007199254740993"], 8);
    const property = fc.property(texts, (text) => {
      const range = parseContentRange(text);
      if (range === undefined) return;
      const { offset, length } = range.extent;
      expect(length).toBeGreaterThan(0);
      expect(offset + length).toBeLessThanOrEqual(range.totalSize ?? Number.MAX_SAFE_INTEGER + 1);
    });
    fc.assert(property, fuzzParameters());
  });

  it("Content-Range undoes what a Range asks", () => {
    const extents = fc.record({ offset: fc.nat(), length: fc.integer({ min: 1, max: 2 ** 40 }) });
    const property = fc.property(extents, (extent) => {
      const text = rangeHeader(extent).replace("=", " ");
      expect(parseContentRange(`${text}/*`)?.extent).toEqual(extent);
    });
    fc.assert(property, fuzzParameters());
  });

  it("WWW-Authenticate gives challenges, quickly, whatever it holds", () => {
    const words = ["Bearer", "Basic", " ", ",", "=", '"', "\\", "realm", "a/b", "==", "\t"];
    const texts = fc.oneof(
      phrases(words, 40),
      fc.tuple(fc.constantFrom(...words), fc.nat(9_000)).map(([word, count]) => word.repeat(count)),
    );
    const property = fc.property(texts, (text) => {
      const begin = performance.now();
      for (const { scheme } of parseChallenges(text)) expect(scheme).not.toBe("");
      expect(performance.now() - begin).toBeLessThan(1_000);
    });
    fc.assert(property, fuzzParameters());
  });

  it("what is quoted in WWW-Authenticate is read back", () => {
    const value = fc.string({ unit: "grapheme-ascii", maxLength: 40 });
    const property = fc.property(value, value, (realm, service) => {
      const quote = (text: string): string => `"${text.replaceAll(/["\\]/g, String.raw`\$&`)}"`;
      const header = `Basic realm="x", Bearer realm=${quote(realm)}, service=${quote(service)}`;
      const bearer = parseChallenges(header)[1];
      expect(Object.fromEntries(bearer?.parameters ?? [])).toEqual({ realm, service });
    });
    fc.assert(property, fuzzParameters());
  });

  it("Retry-After is a time to come, or nothing", () => {
    const words = [
      "0",
      "9",
      "-",
      ".",
      " ",
      "Fri, 20 Nov 2026 10:00:00 GMT",
      "Sun, 06 Nov 1994 08:49:37 GMT",
    ];
    const property = fc.property(phrases(words, 6), phrases(words, 2), (text, date) => {
      const headers = new Map([
        ["retry-after", text],
        ["date", date],
      ]);
      const waitMs = parseRetryAfter(headers, () => 0);
      expect(waitMs === undefined || (waitMs >= 0 && Number.isFinite(waitMs))).toBe(true);
    });
    fc.assert(property, fuzzParameters());
  });
});

// SPDX-License-Identifier: Apache-2.0
// How often a property is tried: a little in every test run, more with EROFSD_FUZZ_RUNS.

/** `smoke` tries, or as many as EROFSD_FUZZ_RUNS says. */
export function fuzzRuns(smoke: number): number {
  const wanted = Number(process.env["EROFSD_FUZZ_RUNS"]);
  return Number.isSafeInteger(wanted) && wanted > 0 ? wanted : smoke;
}

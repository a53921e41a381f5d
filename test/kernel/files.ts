// SPDX-License-Identifier: Apache-2.0
// The files with the kernel tests, in the order they run in. What takes longest is first, so that
// guests who share them end together.

export const FILES = [
  "crashes",
  "nydusd",
  "nydusd-damage",
  "lifecycle",
  "nydus",
  "faults",
  "mounts",
  "every-image",
  "reading",
  "seeding",
  "nydus-trust",
  "prefetch",
  "traces",
  "nydus-registry",
  "nydusd-images",
  "nydusd-faults",
  "names",
  "control",
  "nydusd-input",
  "nydusd-cull",
] as const;

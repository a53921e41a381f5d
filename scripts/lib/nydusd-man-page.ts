// SPDX-License-Identifier: Apache-2.0
// `man erofsd-nydusd`, in mdoc(7): the flags are those of the program itself.

import { FLAGS, type Flag } from "../../src/nydusd/flags.ts";
import { pageHead, prose, sentence } from "./man-page.ts";

const DESCRIPTION = `Takes the place of nydusd under nydus-snapshotter (fs_driver fscache): it takes the
same command line and answers at the same API, and serves Nydus images (RAFS v6) through the kernel's
cachefiles. Only one daemon at a time may have /dev/cachefiles. The snapshotter starts it; README.md
in /usr/share/doc/erofsd has its configuration.`;

/** The page for `version`, dated `date`. */
export function nydusdManPage(version: string, date: Date): string {
  const used = FLAGS.filter(({ isIgnored }) => !isIgnored);
  const ignored = FLAGS.filter(({ isIgnored }) => isIgnored).map(({ name }) => `--${name}`);
  const lines = [
    ...pageHead({ name: "erofsd-nydusd", version, date }),
    ".Nd serves Nydus images over fscache, in nydusd's place",
    ".Sh SYNOPSIS",
    ".Nm",
    ".Cm singleton",
    ".Fl -fscache Ar DIR",
    ".Fl -apisock Ar SOCK",
    ".Op Ar option ...",
    ".Nm",
    ".Fl -help | -version",
    ".Sh DESCRIPTION",
    ...prose(DESCRIPTION),
    ".Bl -tag -width Ds",
    ...used.flatMap((flag) => flagLines(flag)),
    ".El",
    ".Pp",
    ...prose(`Taken, and without a meaning here: ${ignored.join(", ")}.`),
    ".Sh SEE ALSO",
    ".Xr erofsd 8",
  ];
  return `${lines.join("\n")}\n`;
}

function flagLines({ name, short, help }: Flag): string[] {
  const [value = "", text = ""] = help.split("\t");
  const dashed = `Fl -${name}${value === "" ? "" : ` Ar ${value}`}`;
  return [`.It ${short === undefined ? "" : `Fl ${short} , `}${dashed}`, ...prose(sentence(text))];
}

// SPDX-License-Identifier: Apache-2.0
// make-man.js PATH: writes the manual page of what PATH is named after, erofsd.8 or erofsd-nydusd.8,
// there. SOURCE_DATE_EPOCH dates it.

import { writeFile } from "node:fs/promises";
import { basename } from "node:path";
import { packageVersion } from "../../src/platform/package-root.ts";
import { manPage } from "./man-page.ts";
import { nydusdManPage } from "./nydusd-man-page.ts";

const [path] = process.argv.slice(2);
if (path === undefined) throw new Error("usage: make-man.js PATH");
const epoch = process.env["SOURCE_DATE_EPOCH"];
const date = epoch === undefined ? new Date() : new Date(Number(epoch) * 1000);
const page = basename(path) === "erofsd-nydusd.8" ? nydusdManPage : manPage;
await writeFile(path, page(await packageVersion(), date));

// SPDX-License-Identifier: Apache-2.0
// [[registry.credentials]] of the configuration. Its errors quote no value: they may be secrets.

import * as z from "zod";
import { Secret } from "../platform/secret.ts";
import { credentialsProblem } from "../source/registry/credentials/grant.ts";
import { keyOf } from "../source/registry/credentials/host-keys.ts";

const ENTRIES_MAX = 1000;

const secret = z
  .string()
  .min(1)
  .transform((text) => new Secret(text));
const path = z.string().startsWith("/", "an absolute path");

const credential = z
  .strictObject({
    host: z.string().min(1),
    /** This repository and those below it; default: all of the host. */
    repository: z.string().min(1).optional(),
    username: z.string().min(1).optional(),
    password: secret.optional(),
    password_file: path.optional(),
    token: secret.optional(),
    token_file: path.optional(),
  })
  .superRefine((entry, context) => {
    const { username, password, password_file, token, token_file } = entry;
    const key = keyOf(entry);
    if (typeof key === "string") issue(key, `it names no ${key}`);
    const given = [password, password_file, token, token_file].filter((one) => one !== undefined);
    if (given.length !== 1) {
      issue("host", "give one of password, password_file, token and token_file");
      return;
    }
    const needsName = password !== undefined || password_file !== undefined;
    if (needsName && username === undefined) issue("username", "a password needs one");
    if (!needsName && username !== undefined) issue("username", "a token has none");
    const problem = credentialsProblem(
      token === undefined
        ? { username: username ?? "", password: password?.reveal() ?? "" }
        : { bearer: token.reveal() },
    );
    if (problem !== undefined) issue(token === undefined ? "username" : "token", problem);

    function issue(key: string, message: string): void {
      context.addIssue({ code: "custom", message, path: [key] });
    }
  })
  .transform(({ password_file: passwordFile, token_file: tokenFile, ...entry }) => ({
    ...entry,
    passwordFile,
    tokenFile,
  }));

export const registryCredentials = z.array(credential).max(ENTRIES_MAX).default([]);

// SPDX-License-Identifier: Apache-2.0
// `man erofsd`, written in mdoc(7). Commands, options, exit statuses and paths are those of the
// program itself.

import { EXIT_STATUSES, PURPOSE, addCommands } from "../../src/cli/commands.ts";
import { DEFAULT_CONFIG_PATH, configSchema } from "../../src/config/config.ts";
import {
  type RecordedCommand,
  type Settings,
  allCommands,
  recordCommands,
} from "../../src/cli/recorded-commands.ts";

const LINE = /.{1,78}(?: |$)|\S+/g;
/** An option that so many commands have is told once. */
const COMMON_FROM = 4;
const HELP: Option = {
  name: "help",
  settings: { type: "boolean", alias: "h", describe: "show help" },
};

const DESCRIPTION = `The kernel can mount an EROFS or Nydus image whose bytes are not on the machine.
When somebody reads a byte that is missing, it asks a daemon: this one. It fetches the range from a
registry, verifies it, writes it into the kernel's cache, and lets the reader go on.

What asks the daemon does so over its control socket, and needs the right to write to it; or over a
loopback port (control.listen), and needs the token in the file that control.token_file names.`;

/** What the program reads of its environment, and why. */
export const ENVIRONMENT: ReadonlyMap<string, string> = new Map([
  ["EROFSD_REGISTRY_AUTH", "Credentials for registries, a text like docker's config.json."],
  ["EROFSD_REGISTRY_AUTH_FILE", "The path of such a file; it is read when it is needed."],
  ["DOCKER_CONFIG", "The directory of docker's config.json, in place of ~/.docker."],
  ["HTTP_PROXY", "The proxy for registries without TLS; also in lower case."],
  ["HTTPS_PROXY", "The proxy for all others; also in lower case."],
  ["NO_PROXY", "Names, addresses and networks that are reached without one; also in lower case."],
  ["SSL_CERT_FILE", "Certificate authorities, in place of the system's file."],
  ["SSL_CERT_DIR", "A directory of certificate authorities, in place of the system's."],
  ["PATH", "Where docker's credential programs are looked for."],
  ["NO_COLOR", "Set to anything: no colours."],
  ["TERM", "dumb: no progress bars."],
  ["NOTIFY_SOCKET", "Set by systemd: where the daemon says that it is ready."],
  [
    "WATCHDOG_USEC",
    "Set by systemd, with WATCHDOG_PID: how often the daemon says that it is well.",
  ],
  ["LISTEN_FDS", "Set by systemd, with LISTEN_PID and LISTEN_FDNAMES: the control socket."],
]);

interface Option {
  readonly name: string;
  readonly settings: Settings;
}

/** The page for `version`, dated `date`. */
export function manPage(version: string, date: Date): string {
  const program = recordCommands(addCommands);
  const commands = allCommands(program);
  const common = commonOptions(commands);
  const lines = [
    ...pageHead({ name: "erofsd", version, date }),
    `.Nd ${PURPOSE.toLowerCase().replace(/\.$/, "")}`,
    ".Sh SYNOPSIS",
    ".Nm",
    ".Ar command",
    ".Op Ar option ...",
    ".Nm",
    ".Fl -help | -version",
    ".Sh DESCRIPTION",
    ...DESCRIPTION.split("\n\n").flatMap((text, index) => [
      ...(index > 0 ? [".Pp"] : []),
      ...prose(text),
    ]),
    ".Pp",
    "The commands:",
    ".Bl -tag -width Ds",
    ...commands.filter((each) => isRun(each)).flatMap((each) => commandLines(each, common)),
    ".El",
    ".Pp",
    "Options that several commands have:",
    ".Bl -tag -width Ds",
    ...[HELP, ...common.values()].flatMap((each) => optionLines(each)),
    ".El",
    ...tagged(
      "ENVIRONMENT",
      [...ENVIRONMENT].map(([name, text]) => [`Ev ${name}`, text]),
    ),
    ...tagged("FILES", fileTexts()),
    ...tagged(
      "EXIT STATUS",
      EXIT_STATUSES.map(([status, meaning]) => [`${status}`, meaning]),
    ),
    ".Sh DIAGNOSTICS",
    "An error is one line on standard error, and a hint below it.",
    "The daemon's log tells more.",
    ".Sh SEE ALSO",
    ".Xr systemctl 1 ,",
    ".Xr erofsd-nydusd 8 ,",
    ".Xr mount 8",
  ];
  return `${lines.join("\n")}\n`;
}

/** What every page of section 8 begins with, up to its name. */
export function pageHead(of: { name: string; version: string; date: Date }): string[] {
  return [
    `.Dd ${of.date.toLocaleDateString("en-US", { dateStyle: "long", timeZone: "UTC" })}`,
    `.Dt ${of.name.toUpperCase()} 8`,
    `.Os erofsd ${of.version}`,
    ".Sh NAME",
    `.Nm ${of.name}`,
  ];
}

/** One that only has others below it is told by these. */
function isRun(command: RecordedCommand): boolean {
  return command.commands.length === 0;
}

function commonOptions(commands: readonly RecordedCommand[]): ReadonlyMap<string, Option> {
  const counts = new Map<string, { option: Option; count: number }>();
  for (const command of commands.filter((each) => isRun(each))) {
    for (const option of optionsOf(command)) {
      const known = counts.get(keyOf(option)) ?? { option, count: 0 };
      counts.set(keyOf(option), { option, count: known.count + 1 });
    }
  }
  const common = [...counts].filter(([, { count }]) => count >= COMMON_FROM);
  return new Map(common.map(([key, { option }]) => [key, option]));
}

/** The same name may mean something else elsewhere. */
function keyOf({ name, settings }: Option): string {
  return `${name} ${settings.describe ?? ""}`;
}

function optionsOf(command: RecordedCommand): Option[] {
  return [...command.options].map(([name, settings]) => ({ name, settings }));
}

function commandLines(command: RecordedCommand, common: ReadonlyMap<string, Option>): string[] {
  const last = command.path.length - 1;
  const path = command.path.map((word, index) =>
    index === last && command.isDefault ? `Op Ic ${word}` : `Ic ${word}`,
  );
  const words = command.positionals.map((text) => {
    const name = text.slice(1, -1);
    return text.startsWith("[") ? `Op Ar ${name}` : `Ar ${name}`;
  });
  const options = optionsOf(command);
  const own = options.filter((option) => !common.has(keyOf(option)));
  const described = [...command.described].filter(
    ([, { describe, choices }]) => describe !== undefined || choices !== undefined,
  );
  const details = [
    ...described.flatMap(([name, settings]) => [`.It Ar ${name}`, ...aboutValue(settings)]),
    ...own.flatMap((option) => optionLines(option)),
  ];
  return [
    `.It Xo ${path.join(" ")}`,
    ...words.map((word) => `.${word}`),
    ...options.map((option) => `.Op ${flag(option)}`),
    ".Xc",
    ...prose(sentence(command.summary)),
    ...(details.length === 0 ? [] : [".Bl -tag -width Ds", ...details, ".El"]),
    ...command.notes.flatMap((note) => [".Pp", ...prose(note)]),
  ];
}

function optionLines(option: Option): string[] {
  const { alias } = option.settings;
  return [
    `.It ${alias === undefined ? "" : `Fl ${alias} , `}${flag(option)}`,
    ...aboutValue(option.settings),
  ];
}

function flag({ name, settings }: Option): string {
  const value = settings.type === "boolean" ? "" : ` Ar ${name.split("-").at(-1) ?? name}`;
  return `Fl -${name}${value}`;
}

function aboutValue(settings: Settings): string[] {
  const { choices, default: standard } = settings;
  const facts = [
    ...(settings.describe === undefined ? [] : [sentence(settings.describe)]),
    ...(choices === undefined ? [] : [`One of ${choices.join(", ")}.`]),
    ...(typeof standard === "string" || typeof standard === "number"
      ? [`Without it: ${standard}.`]
      : []),
  ];
  return facts.flatMap((fact) => prose(fact));
}

function fileTexts(): [string, string][] {
  const { cache, control, kernel, registry } = configSchema.parse({});
  return [
    [`Pa ${DEFAULT_CONFIG_PATH}`, "The configuration; erofsd config show lists all it may say."],
    [`Pa ${control.socket}`, "The control socket."],
    [`Pa ${cache.dir}`, "What is cached, and what the daemon remembers."],
    [`Pa ${kernel.device}`, "The kernel's door for images that are mounted with fsid=."],
    [`Pa ${registry.certs_dir}`, "Mirrors and certificates of registries, as containerd has them."],
    ["Pa ~/.docker/config.json", "Credentials, where docker has them."],
  ];
}

function tagged(heading: string, entries: readonly (readonly [string, string])[]): string[] {
  const items = entries.flatMap(([tag, text]) => [`.It ${tag}`, ...prose(sentence(text))]);
  return [`.Sh ${heading}`, ".Bl -tag -width Ds", ...items, ".El"];
}

/** What begins with a word that is not a value gets a capital. */
export function sentence(text: string): string {
  const [first = ""] = /^[a-z]+(?=[ ;.]|$)/.exec(text) ?? [];
  const capital = first.slice(0, 1).toUpperCase() + text.slice(first.slice(0, 1).length);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}

/** Text lines of roff: a sentence a line, nothing in them that roff would take for its own. */
export function prose(text: string): string[] {
  return text
    .replaceAll(/\s+/g, " ")
    .trim()
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replaceAll(/`([^`]*)`/g, "\\(lq$1\\(rq")
    .replaceAll("~", "\\(ti")
    .split(/(?<=[.!?]) (?=[A-Z])/)
    .flatMap((line) => line.match(LINE) ?? [])
    .map((line) => line.trim())
    .map((line) => line.replace(/^(?=[.'])/, "\\&"));
}

// SPDX-License-Identifier: Apache-2.0
// A daemon's life: it starts, serves, and ends by a signal, a fault, or in favour of a newer one.
//
//   config -> log -> addon -> what was left by another daemon -> serving -> ending -> shutDown

import { type Config, loadConfigOrDefault } from "./config/config.ts";
import { formatAddress } from "./config/listen-address.ts";
import { observedHandler } from "./control/observe.ts";
import { DaemonError, asDaemonError } from "./errors.ts";
import { Life } from "./life.ts";
import { type DaemonParts, type Serving, buildServing } from "./main.ts";
import { systemClock as clock } from "./platform/clock.ts";
import { type RootLog, createLog } from "./platform/log.ts";
import { loadNative } from "./platform/native.ts";
import { Systemd } from "./platform/systemd.ts";
import { ServiceReport, healthProblem } from "./service-report.ts";
import { predecessor } from "./upgrade.ts";

/** FileDescriptorName= in erofsd.socket. */
const CONTROL_SOCKET_NAME = "control";
const DRAIN_LOOK_MS = 20;
/** Who follows does it as well, so what takes longer is left to it. */
const LEFT_DRAIN_MS = 1000;

/** Runs until a signal ends it; resolves with the exit status. Rejects when it cannot start. */
export async function serve(options: { configPath: string | undefined }): Promise<number> {
  const config = await loadConfigOrDefault(options.configPath);
  const root = await createLog(config.log);
  try {
    return await runDaemon(config, root);
  } catch (error) {
    const fault = asDaemonError(error);
    root.log.fatal({ code: fault.fault.code, hint: fault.policy.hint }, fault.message);
    throw fault;
  } finally {
    root.flush();
  }
}

async function runDaemon(config: Config, { log }: RootLog): Promise<number> {
  const native = loadNative({ writerThreads: config.engine.writer_threads });
  const systemd = new Systemd(native);
  const passed = new Map(systemd.takeListenFds());
  const before = predecessor();
  if (before?.controlFd !== undefined) passed.set(CONTROL_SOCKET_NAME, [before.controlFd]);
  const controlFd = passed.get(CONTROL_SOCKET_NAME)?.[0];
  const life = new Life({ log, controlFd, environment: () => systemd.forSuccessor() });
  const parts = { config, native, log, systemd, passed, follows: before?.pid };
  await before?.turn();
  for (let isFirst = true; ; isFirst = false) {
    const { serving, report } = await startServing(parts, life);
    if (isFirst) before?.ready();
    await report.ready();
    const ending = await life.ending();
    if (ending.kind === "upgrade") report.handOver();
    else await report.stopping();
    await shutDown(config, serving, { log, isUpgrade: ending.kind === "upgrade" });
    if (ending.kind === "fault") throw ending.error;
    if (ending.kind === "stop") return 0;
    const { successor } = ending;
    try {
      await successor.go();
      await systemd.notify({ MAINPID: successor.pid });
      log.info({ pid: successor.pid }, "the new daemon has taken over");
      if (life.isStopping) process.kill(successor.pid, "SIGTERM");
      return 0;
    } catch (error) {
      log.error({}, `this daemon goes on: ${asDaemonError(error).message}`);
      life.upgradeFailed();
    }
  }
}

function reportOf(rooms: Serving, { config, systemd, log }: DaemonParts): ServiceReport {
  const { door, kind, engine, readiness } = rooms;
  const readTimeoutMs = config.limits.read_timeout;
  return new ServiceReport({
    systemd,
    clock,
    log,
    problem: () => healthProblem({ door, readiness, engine, readTimeoutMs, clock }),
    status: () =>
      `Serving through ${kind}: ${door.objectCount} open, ${engine.waitingReads} reads waiting`,
  });
}

async function startServing(
  parts: DaemonParts,
  life: Life,
): Promise<{ serving: Serving; report: ServiceReport }> {
  const { config, log, passed } = parts;
  const startMs = clock.nowMs();
  const rooms = await buildServing(parts, life);
  try {
    await rooms.control.listen(passed.get(CONTROL_SOCKET_NAME)?.[0]);
    passed.delete(CONTROL_SOCKET_NAME);
    const address = await rooms.control.listenTCP();
    if (address !== undefined) {
      const where = `http://${formatAddress(address)}`;
      log.info({ where }, "the control socket is served over TCP too, to whoever has the token");
    }
    await rooms.watching.listen();
  } catch (error) {
    await rooms.control.close();
    await rooms.watching.stop();
    await rooms.door.stop(asDaemonError(error));
    await rooms.keeping.end();
    throw error;
  }
  const handler = rooms.before(observedHandler(rooms.handler, rooms.events));
  rooms.door.start(handler, (error) => {
    rooms.readiness.stop(error);
    life.fail(error);
  });
  rooms.doors.start(handler);
  rooms.readiness.ready();
  log.info(
    {
      cacheDir: config.cache.dir,
      door: rooms.kind,
      domainId: config.kernel.domain_id,
      socket: config.control.socket,
      startMs: Math.round(clock.nowMs() - startMs),
    },
    "ready",
  );
  // What a first request needs is loaded now, after the door is open.
  rooms
    .warmUp()
    .then(() => rooms.prefetches.load())
    .catch((error: unknown) => {
      life.fail(asDaemonError(error));
    });
  return { serving: rooms, report: reportOf(rooms, parts) };
}

// Nobody needs us: stop admitting -> let what waits finish, for a while -> fail the rest -> close.
// Something is mounted: stop taking -> let what was taken finish -> leave the rest to who follows.
async function shutDown(
  config: Config,
  rooms: Serving,
  { log, isUpgrade }: { log: RootLog["log"]; isUpgrade: boolean },
): Promise<void> {
  const { door, keeping, engine, opener } = rooms;
  const error = new DaemonError({ code: "stopping" });
  const isLeft = isUpgrade || (keeping.isKept && (await door.isNeeded()));
  if (isLeft) {
    door.pause();
    keeping.handOver();
  } else {
    rooms.handler.refuseNew(error);
  }
  rooms.readiness.stop(error);
  rooms.events.stop();
  await rooms.control.close();
  const patienceMs = config.limits.drain_timeout;
  const untilMs = clock.nowMs() + (isLeft ? Math.min(LEFT_DRAIN_MS, patienceMs) : patienceMs);
  const isBusy = () => engine.waitingReads > 0 || opener.waitingCount > 0;
  while (isBusy() && clock.nowMs() < untilMs) {
    await new Promise<void>((resolve) => {
      clock.after(DRAIN_LOOK_MS, resolve);
    });
  }
  rooms.stopping.abort(error);
  rooms.fills.stop();
  rooms.replays?.stop();
  rooms.prefetches.stop(error);
  rooms.prefetcher.stop();
  if (isLeft) await door.handOver(error);
  rooms.names.stop(error);
  engine.abort(error);
  await rooms.doors.stop(error);
  if (!isLeft) {
    await door.stop(error);
    await keeping.end();
  }
  await rooms.source.close();
  await rooms.watching.stop();
  if (isLeft && !isUpgrade) {
    log.warn({}, "images are still mounted: reads of what is not cached wait for another daemon");
  }
  log.info({}, "stopped");
}

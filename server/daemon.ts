import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Server } from '@grpc/grpc-js';
import { CriError, describeError } from '#base/errors.ts';
import { newId } from '#base/id.ts';
import { Locks } from '#base/lock.ts';
import type { LeveledLog } from '#base/log.ts';
import { ExitWatcher } from '../conmon/conmon.ts';
import type { Storage } from '../storage/storage.ts';
import { serveAdmin } from './admin.ts';
import { imageRoutes } from './admin-images.ts';
import { podRoutes } from './admin-pods.ts';
import { Background } from './background.ts';
import { VERSION } from './cli/version.ts';
import type { Config } from './config.ts';
import type { ContainerRecord } from './container/container.ts';
import { Deaths } from './container/deaths.ts';
import { noteEnd } from './container/end.ts';
import { WritableLayerUsage } from './container/writable-usage.ts';
import { Creations } from './creation.ts';
import { containerBackend, sandboxBackend } from './creation-backend.ts';
import { createHandlers } from './handlers.ts';
import { holdRoot } from './instance.ts';
import { listen, shutDown } from './listener.ts';
import { createMetrics, type Metrics } from './metrics/metrics.ts';
import { serveMetrics } from './metrics/server.ts';
import { collectNetworkGarbage } from './network-garbage.ts';
import { createCgroups } from './oci/cgroup.ts';
import { detectHierarchy } from './oci/cgroup-hierarchy.ts';
import { createMonitorCgroup } from './oci/cgroup-monitor.ts';
import { HookDirectories } from './oci/hooks.ts';
import { readHostFacts } from './oci/host-facts.ts';
import { formatLabel } from './oci/selinux-label.ts';
import { SelinuxLevels } from './oci/selinux-levels.ts';
import { cniSettings, defaultAppArmor, openCni, openCommandCgroups, openStorage, openStreams, selinuxFacts, storageSettings } from './open.ts';
import type { Parts, Paths } from './parts.ts';
import { Records } from './records.ts';
import { recover } from './recover.ts';
import type { LiveConfig } from './reload.ts';
import { userOfImage } from './rpc/image.ts';
import { pendingDetaches } from './rpc/runtime.ts';
import { openRuntimes } from './runtimes.ts';
import { HostPorts } from './sandbox/host-ports.ts';
import { shareNetnsDirectory } from './sandbox/netns-directory.ts';
import { makePauseRootfs } from './sandbox/pause.ts';
import type { SandboxRecord } from './sandbox/sandbox.ts';
import { Timelines } from './sandbox/timeline.ts';
import { userNamespaceProblem } from './sandbox/user-namespace.ts';
import { buildServices } from './service.ts';
import { notePauseEnd, Sweeper } from './sweep.ts';

/** A running daemon; disposing stops it gracefully and leaves containers running. */
export interface Daemon extends AsyncDisposable {
  /** Rejects when the daemon cannot go on. */
  readonly closed: Promise<void>;
}

/** How long running calls may take to finish at a stop; creations are undone after the first half. */
const STOP_GRACE_MS = 20_000;

/** Builds every part, brings memory in line with what is there, and serves. */
export async function startDaemon(live: LiveConfig, log: LeveledLog): Promise<Daemon> {
  const config = live.current;
  const startedMs = performance.now();
  await using stack = new AsyncDisposableStack();
  const life = new AbortController();
  const background = new Background(log, life.signal);
  const paths = await makeDirectories(config);
  const held = stack.use(await holdRoot(config.root));
  const metrics = stack.use(createMetrics({ version: VERSION }));
  const problems = new Map<string, string>();
  stack.use(shareNetnsDirectory({ namespacesDir: config.runtime.namespacesDir, runroot: config.runroot, log }));

  const streams = stack.use(await openStreams(config, log));
  const [sandboxes, containers] = await Promise.all([
    Records.open<SandboxRecord>(join(config.root, 'sandboxes'), paths.trash),
    Records.open<ContainerRecord>(join(config.root, 'containers'), paths.trash),
  ]);
  const hierarchy = detectHierarchy();
  const [host, userNamespaces, storage, cni, runtimes] = await Promise.all([
    readHostFacts(),
    userNamespaceProblem(config, life.signal),
    openStorage(config, log, metrics, (image) => userOfImage({ sandboxes: sandboxes.records, containers: containers.records }, image)),
    openCni(config, log, metrics),
    openRuntimes(config, hierarchy, life.signal, log, (name, work) => background.start(name, work)),
  ]);
  stack.use(storage);
  stack.use(cni);
  const facts = { ...host, ...(await defaultAppArmor(config, host, log, life.signal)), ...(await selinuxFacts(config, host, log)) };
  await makePauseRootfs(paths.pauseRootfs, config.image.pauseBinary, facts.selinuxPolicy).catch((err: unknown) => {
    if (config.image.pauseImage === '') problems.set('pause', describeError(err));
  });
  if (facts.selinuxPolicy !== undefined) storage.labelLayers(formatLabel(facts.selinuxPolicy.readonlyFile));
  const once = new Set<string>();
  let lastNow = 0n;
  const parts: Parts = {
    get config() {
      return live.current;
    },
    log,
    storage,
    cni,
    sandboxes: sandboxes.records,
    containers: containers.records,
    runtimes: runtimes.byName,
    features: runtimes.features,
    tried: runtimes.tried,
    lost: new Map(),
    hostPorts: new HostPorts(),
    timelines: new Timelines(),
    hooks: new HookDirectories(
      () => parts.config.runtime.hooksDir,
      (path, err) => {
        parts.once(`hook ${path} ${describeError(err)}`, { err, path }, 'Left out OCI hook file');
      },
    ),
    userNamespaceProblem: userNamespaces,
    cgroups: createCgroups(hierarchy, stack.use(openCommandCgroups(hierarchy, config, log))),
    monitors: await createMonitorCgroup(hierarchy, config.runtime.monitorCgroup),
    streams,
    host: facts,
    selinuxLevels: new SelinuxLevels(),
    deaths: new Deaths(),
    making: new Map(),
    stops: new Map(),
    locks: new Locks(),
    doomed: new Set(),
    paths,
    signal: life.signal,
    newId,
    // Lists are sorted by these times, so that no two may be equal.
    now: () => {
      const now = BigInt(Date.now()) * 1_000_000n;
      lastNow = now > lastNow ? now : lastNow + 1n;
      return String(lastNow);
    },
    background: (name, work) => background.start(name, work),
    once: (key, fields, message) => {
      if (once.has(key)) return;
      once.add(key);
      log.warn(fields, message);
    },
    observeStage: (stage, seconds) => metrics.observeStage(stage, seconds),
    observeOom: () => metrics.countOom(),
    observeDetachFailure: () => metrics.countDetachFailure(),
  };

  stack.use(
    await ExitWatcher.open(
      paths.exits,
      (id) => {
        parts.deaths.announce(id);
        notePauseEnd(parts, id);
        background.start('note end of container', () => noteEnd(parts, id));
      },
      log,
    ),
  );
  await recover(parts, { sandboxes: sandboxes.damaged, containers: containers.damaged });
  const sweeper = new Sweeper(parts);
  const swept = Promise.all([sweeper.run(life.signal), collectNetworkGarbage(parts)]);

  const options = { timeoutMs: config.runtime.creationTimeoutMs, signal: life.signal, log };
  const podCreations = new Creations(sandboxBackend(parts), options);
  const containerCreations = new Creations(containerBackend(parts), options);
  const writable = stack.use(
    new WritableLayerUsage({
      layers: () => runningLayers(parts),
      measure: async (directory, { signal }) => {
        const { usedBytes, inodesUsed } = await storage.writableUsage(directory, signal);
        return { bytes: usedBytes, inodes: inodesUsed };
      },
      log,
    }),
  );
  const handlers = createHandlers(parts, { podCreations, containerCreations, writable, problems: () => [...problems.values(), ...runtimes.problems()] });
  const services = buildServices(handlers, { log, observe: (rpc, seconds, code) => metrics.observeRpc(rpc, code, seconds) });
  const { grpcMaxRecvMsgSize, grpcMaxSendMsgSize } = config.api;
  const server = new Server({ 'grpc.max_receive_message_length': grpcMaxRecvMsgSize, 'grpc.max_send_message_length': grpcMaxSendMsgSize });
  services.register(server);

  metrics.collectFrom(metricSources(parts));
  if (config.metrics.enableMetrics) {
    const { metricsHost, metricsPort, metricsSocket } = config.metrics;
    const resources = { '/images/pulls': () => ({ pulls: storage.pulls() }) };
    stack.use(await serveMetrics({ registry: metrics.registry, host: metricsHost, port: metricsPort, socket: metricsSocket, resources, log }));
  }
  stack.use(
    await serveAdmin({
      path: join(config.runroot, 'admin.sock'),
      routes: [...imageRoutes({ storage, stagingDir: join(config.root, 'staging'), log }), ...podRoutes(parts)],
      log,
    }),
  );
  live.onReload((next) => () => log.setLevel(next.logLevel));
  live.onReload((next) => storage.prepare(storageSettings(next)));
  live.onReload((next) => () => background.start('take other network settings', () => cni.configure(cniSettings(next))));
  const socket = await listen(server, config.api.listen, log);
  log.info({ path: config.api.listen, durationMs: Math.round(performance.now() - startedMs) }, 'Started daemon');

  if (!held.stoppedCleanly) background.start('check the image store', () => checkQuickly(storage, life.signal));
  const rest = stack.move();
  return {
    closed: new Promise(() => {}),
    async [Symbol.asyncDispose]() {
      await socket[Symbol.asyncDispose]();
      const stopping = new CriError('unavailable', 'berth is stopping');
      const sessionsEnded = streams[Symbol.asyncDispose]();
      const hurry = setTimeout(() => void Promise.all([podCreations.abortAll(stopping), containerCreations.abortAll(stopping)]), STOP_GRACE_MS / 2);
      const clean = await shutDown(server, () => services.drain(), STOP_GRACE_MS);
      clearTimeout(hurry);
      // Creations that nobody waits for any more are undone too: their retry will find a daemon that knows nothing of them.
      await Promise.all([podCreations.abortAll(stopping), containerCreations.abortAll(stopping)]);
      life.abort(stopping);
      await Promise.all([sessionsEnded, swept, background.settled()]);
      await rest.disposeAsync();
      log.info({ reason: clean ? 'clean' : 'calls were cut off' }, 'Stopped daemon');
    },
  };
}

/** After an end that nobody planned, which a power cut may have been; in the background, at the lowest priority. */
async function checkQuickly(storage: Storage, signal: AbortSignal): Promise<void> {
  try {
    await storage.check({ full: false, repair: false, signal }, () => {}); // logged and counted there
  } catch (err) {
    if (!signal.aborted) throw err;
  }
}

async function makeDirectories({ root, runroot }: Config): Promise<Paths> {
  const bundles = join(runroot, 'bundles');
  const paths: Paths = {
    exits: join(runroot, 'exits'),
    pauseRootfs: join(root, 'pause'),
    trash: join(root, 'removed'),
    bundleTrash: join(runroot, 'removed'),
    bundle: (id) => join(bundles, id),
    execs: join(runroot, 'exec'),
  };
  await mkdir(root, { recursive: true, mode: 0o711 });
  await mkdir(runroot, { recursive: true, mode: 0o755 });
  for (const directory of [bundles, paths.exits, paths.pauseRootfs, paths.trash, paths.bundleTrash, paths.execs])
    await mkdir(directory, { recursive: true, mode: 0o711 });
  return paths;
}

function* runningLayers({ containers }: Parts): Generator<{ containerId: string; directory: string }> {
  for (const { id, state } of containers.values()) if (state.name !== 'creating') yield { containerId: id, directory: containers.directory(id) };
}

function metricSources(parts: Parts): Parameters<Metrics['collectFrom']>[0] {
  const { containers, sandboxes, storage } = parts;
  return {
    containers: () => {
      const counts = { created: 0, running: 0, exited: 0, unknown: 0 };
      for (const { state } of containers.values()) counts[state.name === 'creating' ? 'unknown' : state.name] += 1;
      return counts;
    },
    sandboxes: () => {
      const counts = { ready: 0, notready: 0, unknown: 0 };
      for (const { state } of sandboxes.values()) counts[state === 'ready' ? 'ready' : state === 'notReady' ? 'notready' : 'unknown'] += 1;
      return counts;
    },
    images: () => storage.images().length,
    pulls: () => storage.pulls().length,
    detachPending: () => pendingDetaches(parts).length,
    networkReady: () => parts.cni.status().ready,
  };
}

import { CriError, describeError } from '#base/errors.ts';
import type { Log } from '#base/log.ts';
import { type Command, parseCommand, UsageError, usage } from './cli/arguments.ts';
import { formatEffective, formatSample } from './cli/config-text.ts';
import { VERSION } from './cli/version.ts';
import { readEnvironment } from './config/environment.ts';
import { defaultValues, effectiveConfig, type LoadOptions, loadConfig, loadWithValues } from './config.ts';
import { LiveConfig } from './reload.ts';

/**
 * Berth's one program: the daemon, and commands beside it. What the daemon needs is loaded by `runDaemon` only, so that
 * the commands start at once.
 *
 * Exit codes: 0; 1 when it failed; 2 for a command line that cannot be understood.
 */
async function main(argv: readonly string[]): Promise<number> {
  try {
    return await runCommand(parseCommand(argv));
  } catch (err) {
    if (err instanceof UsageError) {
      process.stderr.write(`berth: ${err.message}\nSee: berth help\n`);
      return 2;
    }
    process.stderr.write(`berth: ${err instanceof CriError ? describeError(err) : err instanceof Error ? err.stack : String(err)}\n`);
    return 1;
  }
}

async function runCommand(command: Command): Promise<number> {
  switch (command.name) {
    case 'help':
      process.stdout.write(usage);
      return 0;
    case 'version':
      process.stdout.write(`berth ${VERSION} (node ${process.versions.node}, ${process.platform}/${process.arch})\n`);
      return 0;
    case 'sample':
      process.stdout.write(formatSample(defaultValues()));
      return 0;
    case 'config':
      process.stdout.write(formatEffective(effectiveConfig(command.config)));
      return 0;
    case 'image': {
      const { runImageCommand } = await import('./cli/image.ts');
      const socketPath = `${loadConfig(command.config).runroot}/admin.sock`;
      const { stdin, stdout, stderr } = process;
      return await runImageCommand(command.command, { socketPath, stdin, stdout, stderr });
    }
    case 'pod': {
      const { runPodCommand } = await import('./cli/pod.ts');
      process.stdout.write(await runPodCommand(command.command, `${loadConfig(command.config).runroot}/admin.sock`));
      return 0;
    }
    case 'daemon':
      return await runDaemon(command.config);
  }
}

async function runDaemon(options: LoadOptions): Promise<number> {
  const loaded = loadWithValues(options);
  const { config } = loaded;
  const [{ startDaemon }, { createLog }, { createNotifier, startWatchdog }, { createStatusCheck }] = await Promise.all([
    import('./daemon.ts'),
    import('#base/log.ts'),
    import('./notify.ts'),
    import('./cli/status-check.ts'),
  ]);
  const log = createLog(config.logLevel);
  const live = new LiveConfig(loaded, { load: () => loadWithValues(options), log });
  const asked = listenToSignals(log, () => void live.reload());
  process.on('uncaughtException', (err, origin) => {
    log.error({ err, reason: origin }, 'Daemon failed');
    process.exit(1);
  });
  const { notifySocket, watchdogMs } = readEnvironment();
  const notifier = createNotifier(notifySocket, log);
  let failed = false;
  try {
    await using daemon = await startDaemon(live, log);
    await using stack = new AsyncDisposableStack();
    notifier.ready();
    if (watchdogMs !== undefined) {
      const status = stack.use(createStatusCheck(config.api.listen));
      stack.use(startWatchdog({ intervalMs: watchdogMs, check: status.check, notify: notifier, log }));
    }
    await Promise.race([asked, daemon.closed]).catch((err: unknown) => {
      failed = true;
      log.error({ err }, 'Daemon failed');
    });
    notifier.stopping();
  } catch (err) {
    failed = true;
    log.error({ err }, 'Daemon could not start or stop');
  }
  return failed ? 1 : 0;
}

/** Resolves at the first SIGTERM or SIGINT; a second one ends the process at once. SIGHUP reloads the configuration. */
function listenToSignals(log: Log, reload: () => void): Promise<void> {
  const asked = Promise.withResolvers<void>();
  let count = 0;
  for (const [signal, number] of [
    ['SIGTERM', 15],
    ['SIGINT', 2],
  ] as const) {
    process.on(signal, () => {
      count += 1;
      if (count > 1) process.exit(128 + number);
      log.info({ signal }, 'Stopping daemon');
      asked.resolve();
    });
  }
  process.on('SIGHUP', reload);
  return asked.promise;
}

// Work that hangs must not keep a daemon alive that has been asked to end.
process.exit(await main(process.argv.slice(2)));

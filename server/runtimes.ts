import { mkdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { sleep, withTimeout } from '#base/abort.ts';
import { writeFileAtomic } from '#base/atomic-file.ts';
import { describeError, isErrno } from '#base/errors.ts';
import type { Log } from '#base/log.ts';
import type { Config } from './config.ts';
import { createOciRuntime, type OciRuntime, type RuntimeFeatures } from './oci/runtime.ts';
import { tryFeatures } from './oci/trial.ts';

/** The configured OCI runtimes. */
export interface Runtimes {
  readonly byName: ReadonlyMap<string, OciRuntime>;
  /** What each can do; all false until it has answered. */
  readonly features: ReadonlyMap<string, RuntimeFeatures>;
  /** Why the node is not ready for pods without a runtime class. */
  readonly problems: () => readonly string[];
}

/** A runtime that is slow must not hold up the start. Milliseconds. */
const ASK_MS = 3_000;
const ASK_AGAIN_MS = 10_000;
/** It tries containers, and may do so for longer than the start waits for it. */
const TRY_MS = 60_000;

const UNKNOWN: RuntimeFeatures = { answered: false, userNamespaces: false, idmappedMounts: false, recursiveReadOnlyMounts: false };

/**
 * Asks each handler at start what it can do. One that does not answer is asked again in the background until it does; as
 * long as that is the default one, the node is not ready.
 */
export async function openRuntimes(
  config: Config,
  signal: AbortSignal,
  log: Log,
  background: (name: string, work: () => Promise<void>) => void,
): Promise<Runtimes> {
  const { runtime } = config;
  const byName = new Map<string, OciRuntime>();
  const features = new Map<string, RuntimeFeatures>();
  const problems = new Map<string, string>();
  const ask = async (handler: string, oci: OciRuntime): Promise<void> => {
    try {
      const told = await oci.features({ signal: withTimeout(signal, ASK_MS) });
      features.set(handler, told);
      problems.delete(handler);
      if (!told.answered) await learnByTrial(handler, oci);
    } catch (err) {
      if (!problems.has(handler)) log.warn({ err, handler }, 'Could not ask OCI runtime for its features');
      problems.set(handler, describeError(err));
    }
  };
  const learnByTrial = async (handler: string, oci: OciRuntime): Promise<void> => {
    const learnt = foundByTrial(config, oci, signal, log).then((found) => void features.set(handler, found));
    background('try OCI runtime', () => learnt);
    const enough = new AbortController();
    await Promise.race([learnt, sleep(ASK_MS, AbortSignal.any([signal, enough.signal])).catch(() => {})]);
    enough.abort();
  };
  const askAgain = async (handler: string, oci: OciRuntime): Promise<void> => {
    while (problems.has(handler) && !signal.aborted) {
      await sleep(ASK_AGAIN_MS, signal);
      await ask(handler, oci);
    }
    log.info({ handler }, 'Reached OCI runtime');
  };
  await Promise.all(
    Object.entries(runtime.runtimes).map(async ([handler, { runtimePath, runtimeRoot }]) => {
      await mkdir(runtimeRoot, { recursive: true, mode: 0o700 });
      const oci = createOciRuntime({ handler, path: runtimePath, root: runtimeRoot, systemdCgroup: runtime.cgroupManager === 'systemd' });
      byName.set(handler, oci);
      features.set(handler, UNKNOWN);
      await ask(handler, oci);
      if (problems.has(handler)) background('ask OCI runtime', () => askAgain(handler, oci));
    }),
  );
  return {
    byName,
    features,
    problems: () => {
      const problem = problems.get(runtime.defaultRuntime);
      return problem === undefined ? [] : [`runtime handler ${runtime.defaultRuntime}: ${problem}`];
    },
  };
}

/**
 * What a handler can do that does not tell. Each program is tried once until the next reboot: a trial takes some 50 ms. A
 * trial that fails leaves all false, which costs pods that need more, and no others. Never rejects.
 */
async function foundByTrial({ root, runroot, image }: Config, oci: OciRuntime, life: AbortSignal, log: Log): Promise<RuntimeFeatures> {
  const file = join(runroot, `features-${oci.handler}.json`);
  try {
    const { mtimeMs, size, ino } = await stat(oci.path);
    const program = `${oci.path} ${ino} ${size} ${mtimeMs}`;
    const known = await readKnown(file);
    if (known?.program === program) return known.features;
    const features = await tryFeatures(oci, { directory: join(root, `trial-${oci.handler}`), program: image.pauseBinary, signal: withTimeout(life, TRY_MS) });
    await writeFileAtomic(file, JSON.stringify({ program, features } satisfies Known));
    return features;
  } catch (err) {
    if (!life.aborted) log.warn({ err, handler: oci.handler }, 'Could not try what OCI runtime can do');
    return UNKNOWN;
  }
}

interface Known {
  /** Path, inode, size and time of change: another program was not tried yet. */
  readonly program: string;
  readonly features: RuntimeFeatures;
}

async function readKnown(file: string): Promise<Known | undefined> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as Known;
  } catch (err) {
    if (isErrno(err, 'ENOENT') || err instanceof SyntaxError) return undefined;
    throw err;
  }
}

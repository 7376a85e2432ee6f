import { mkdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { sleep, withTimeout } from '#base/abort.ts';
import { writeFileAtomic } from '#base/atomic-file.ts';
import { describeError, isErrno } from '#base/errors.ts';
import type { Log } from '#base/log.ts';
import type { Config } from './config.ts';
import { fingerprint } from './fingerprint.ts';
import { removeCgroup } from './oci/cgroup-fs.ts';
import type { CgroupDriver, CgroupHierarchy } from './oci/cgroup-hierarchy.ts';
import { containerCgroup } from './oci/cgroup-path.ts';
import { createOciRuntime, NO_FEATURES, type OciRuntime, type RuntimeFeatures } from './oci/runtime.ts';
import { type TrialCgroup, tryFeatures } from './oci/trial.ts';

/** The configured OCI runtimes. */
export interface Runtimes {
  readonly byName: ReadonlyMap<string, OciRuntime>;
  /** What each can do; all false until it has answered. */
  readonly features: ReadonlyMap<string, RuntimeFeatures>;
  /** Resolves once it is known what a handler can do that has to be tried; at once for all others. */
  readonly tried: (handler: string) => Promise<void>;
  /** Why the node is not ready for pods without a runtime class. */
  readonly problems: () => readonly string[];
}

/** A runtime that is slow must not hold up the start. Milliseconds. */
const ASK_MS = 3_000;
const ASK_AGAIN_MS = 10_000;
const TRY_MS = 60_000;

/**
 * Asks each handler at start what it can do. One that does not answer is asked again in the background until it does; as
 * long as that is the default one, the node is not ready.
 */
export async function openRuntimes(
  config: Config,
  hierarchy: CgroupHierarchy,
  signal: AbortSignal,
  log: Log,
  background: (name: string, work: () => Promise<void>) => void,
): Promise<Runtimes> {
  const { runtime } = config;
  const byName = new Map<string, OciRuntime>();
  const features = new Map<string, RuntimeFeatures>();
  const problems = new Map<string, string>();
  const trials = new Map<string, Promise<void>>();
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
    const trial = await openTrial(config, hierarchy, oci);
    features.set(handler, trial.known ?? NO_FEATURES);
    // In the background: the kubelet looks again every few seconds, and pods that need nothing of it need not wait.
    if (trial.known !== undefined) return;
    const running = trial.run(signal, log).then((found) => void features.set(handler, found));
    trials.set(handler, running);
    background('try OCI runtime', () => running);
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
      features.set(handler, NO_FEATURES);
      await ask(handler, oci);
      if (problems.has(handler)) background('ask OCI runtime', () => askAgain(handler, oci));
    }),
  );
  return {
    byName,
    features,
    tried: async (handler) => await trials.get(handler),
    problems: () => {
      const problem = problems.get(runtime.defaultRuntime);
      return problem === undefined ? [] : [`runtime handler ${runtime.defaultRuntime}: ${problem}`];
    },
  };
}

interface FeatureTrial {
  /** What an earlier trial of the same program has found since the last reboot. */
  readonly known: RuntimeFeatures | undefined;
  /** Tries it now, which takes some 50 ms. A trial that fails leaves all false, which costs pods that need more, and no others. */
  run(life: AbortSignal, log: Log): Promise<RuntimeFeatures>;
}

/** What a handler can do that does not tell. @throws when its program is not there. */
async function openTrial({ root, runroot, image, runtime }: Config, hierarchy: CgroupHierarchy, oci: OciRuntime): Promise<FeatureTrial> {
  const file = join(runroot, `features-${oci.handler}.json`);
  const { mtimeMs, size, ino } = await stat(oci.path);
  const program = `${oci.path} ${ino} ${size} ${mtimeMs}`;
  const last = await readKnown(file);
  return {
    known: last?.program === program ? last.features : undefined,
    run: async (life, log) => {
      try {
        const directory = join(root, `trial-${oci.handler}`);
        const cgroup = trialCgroup(hierarchy, runtime.cgroupManager, directory);
        const features = await tryFeatures(oci, { directory, program: image.pauseBinary, cgroup, signal: withTimeout(life, TRY_MS) });
        await writeFileAtomic(file, JSON.stringify({ program, features } satisfies Known));
        return features;
      } catch (err) {
        if (!life.aborted) log.warn({ err, handler: oci.handler }, 'Could not try what OCI runtime can do');
        return NO_FEATURES;
      }
    },
  };
}

/** Not below a parent that would have to be made, and not another daemon's. */
function trialCgroup(hierarchy: CgroupHierarchy, driver: CgroupDriver, directory: string): TrialCgroup {
  const id = `berth-trial-${fingerprint(directory).slice(0, 8)}`;
  const { cgroupsPath, path } = containerCgroup(driver, driver === 'systemd' ? '' : '/', id);
  return { cgroupsPath, remove: () => removeCgroup(hierarchy, path) };
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

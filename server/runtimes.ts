import { mkdir } from 'node:fs/promises';
import { sleep, withTimeout } from '#base/abort.ts';
import { describeError } from '#base/errors.ts';
import type { Log } from '#base/log.ts';
import type { Config } from './config.ts';
import { createOciRuntime, type OciRuntime, type RuntimeFeatures } from './oci/runtime.ts';

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

const UNKNOWN: RuntimeFeatures = { answered: false, userNamespaces: false, idmappedMounts: false, recursiveReadOnlyMounts: false };

/**
 * Asks each handler at start what it can do. One that does not answer is asked again in the background until it does; as
 * long as that is the default one, the node is not ready.
 */
export async function openRuntimes(
  { runtime }: Config,
  signal: AbortSignal,
  log: Log,
  background: (name: string, work: () => Promise<void>) => void,
): Promise<Runtimes> {
  const byName = new Map<string, OciRuntime>();
  const features = new Map<string, RuntimeFeatures>();
  const problems = new Map<string, string>();
  const ask = async (handler: string, oci: OciRuntime): Promise<void> => {
    try {
      features.set(handler, await oci.features({ signal: withTimeout(signal, ASK_MS) }));
      problems.delete(handler);
    } catch (err) {
      if (!problems.has(handler)) log.warn({ err, handler }, 'Could not ask OCI runtime for its features');
      problems.set(handler, describeError(err));
    }
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

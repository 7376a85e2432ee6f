import { sleep } from '#base/abort.ts';
import { CriError, describeError } from '#base/errors.ts';
import { type Parts, timed } from '../parts.ts';
import { move } from './container.ts';
import { releaseEnded } from './end.ts';
import { oomCounts } from './oom.ts';
import { workloadOf } from './take-down.ts';
import { killWorkload } from './workload.ts';

/** How long the OCI runtime may take to start a container. */
const START_MS = 120_000;

/** What containerd reports too for a container whose start failed; the kubelet shows it. */
const START_FAILED = { exitCode: 128, reason: 'StartError' } as const;

/**
 * Starts a created container. One that cannot be started becomes exited, with the reason and the message that its status
 * then shows.
 */
export async function startContainer(parts: Parts, id: string, caller: AbortSignal): Promise<void> {
  await using _lock = await parts.locks.acquire(id, caller);
  const record = parts.containers.get(id);
  if (record === undefined) throw new CriError('notFound', `container ${id} does not exist`);
  if (record.state.name !== 'created')
    throw new CriError('failedPrecondition', `container ${id} is ${record.state.name}: only a created container can be started`);
  if (parts.sandboxes.get(record.sandboxId)?.state !== 'ready')
    throw new CriError('failedPrecondition', `container ${id}: pod sandbox ${record.sandboxId} is not ready`);
  const runtime = parts.runtimes.get(record.handler);
  if (runtime === undefined) throw new CriError('failedPrecondition', `container ${id}: runtime handler "${record.handler}" is not configured any more`);
  const signal = AbortSignal.any([parts.signal, AbortSignal.timeout(START_MS)]);
  // Before it starts, since it may be killed at once; what is remembered is written with the state.
  const before = await oomCounts(parts, record.cgroup);
  parts.containers.remember(id, (old) => ({ ...old, ...before }));
  const startedAt = parts.now();
  const died = new AbortController();
  try {
    await timed(parts, 'container_start', () => endingWith(parts, id, died, () => runtime.start(id, { signal: AbortSignal.any([signal, died.signal]) })), {
      podId: record.sandboxId,
      of: `container ${record.metadata?.name}`,
    });
  } catch (err) {
    const message = describeError(err);
    await noteStartFailure(parts, id, message); // before it is killed, which would be taken for its end
    await killWorkload(parts, workloadOf(record), AbortSignal.any([parts.signal, AbortSignal.timeout(10_000)])).catch((killErr: unknown) =>
      parts.log.warn({ err: killErr, containerId: id }, 'Could not kill container that failed to start'),
    );
    parts.background('release container', () => releaseEnded(parts, id));
    throw new CriError('unknown', `start container ${id}: ${message}`, { cause: err });
  }
  await parts.containers.update(id, (old) => {
    // It may have ended already, and its exit may be noted.
    if (old.state.name === 'created') return { ...old, state: move(id, old.state, { ...old.state, name: 'running', startedAt }) };
    if (old.state.name === 'exited' && old.state.startedAt === '0') return { ...old, state: { ...old.state, startedAt } };
    return undefined;
  });
  parts.log.info({ containerId: id, sandboxId: record.sandboxId }, 'Started container');
}

/** For so long the runtime may go on after the container has ended: a command may end before the runtime does. */
const AFTER_DEATH_MS = 2_000;

/** Ends a start whose container was killed before it came to be: the runtime would wait for it for ever. */
async function endingWith(parts: Parts, id: string, died: AbortController, start: () => Promise<void>): Promise<void> {
  const done = new AbortController();
  const watch = async (): Promise<void> => {
    await parts.deaths.wait(id, done.signal);
    await sleep(AFTER_DEATH_MS, done.signal);
    died.abort(new CriError('failedPrecondition', `container ${id} was killed while it was started`));
  };
  watch().catch(() => {}); // the start was over first
  try {
    await start();
  } finally {
    done.abort();
  }
}

async function noteStartFailure(parts: Parts, id: string, message: string): Promise<void> {
  await parts.containers.update(
    id,
    (old) => {
      if (old.state.name === 'exited') return undefined; // its end was noted first
      return { ...old, state: { name: 'exited', startedAt: '0', finishedAt: parts.now(), ...START_FAILED, message } };
    },
    { lasting: true },
  );
  parts.deaths.announce(id);
}

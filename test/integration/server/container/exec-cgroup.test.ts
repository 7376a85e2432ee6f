import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { sleep } from '#base/abort.ts';
import { execSync } from '../../../../server/container/exec.ts';
import { endLeftExecs } from '../../../../server/container/exec-scratch.ts';
import { execSession } from '../../../../server/container/exec-session.ts';
import type { ExecTarget } from '../../../../server/container/exec-target.ts';
import { execTerminal } from '../../../../server/container/exec-terminal.ts';
import { NO_EXEC_CGROUP } from '../../../../server/oci/exec-cgroup.ts';
import { findTool } from '../../../support/tool.ts';
import { makeBundle, RUNTIMES, type TestBundle, until } from '../../conmon/bundle.ts';
import { cgroupNames, disposeOf, execs, executing, takeCgroup } from './command-cgroups.ts';
import { makeClient } from './session.ts';

const never = new AbortController().signal;
const newRunc = findTool('runc-new');

interface Running extends AsyncDisposable {
  readonly bundle: TestBundle;
  readonly target: ExecTarget;
  /** Pids in the container beside its first process. */
  readonly others: () => number[];
}

async function runContainer(runtimePath: string): Promise<Running> {
  const bundle = await makeBundle(runtimePath, { log: false });
  const { init } = await bundle.startAndRun();
  const { id, runtimeRoot } = bundle.spec;
  mkdirSync(join(bundle.directory, 'x'));
  const { cgroupProcs, process } = bundle;
  return {
    bundle,
    target: { id, runtimePath, runtimeRoot, bundle: bundle.spec.bundle, init, cgroupProcs, takeCgroup: takeCgroup(bundle), process },
    others: () => cgroupProcs().filter((pid) => pid !== init.pid),
    [Symbol.asyncDispose]: () => disposeOf(bundle),
  };
}

/** Runs a script in the container, in each way that there is; `leave` is the client's going, or the end of its time. */
const KINDS = {
  'ExecSync, by its timeout': ({ target }: Running, script: string) => {
    const controller = new AbortController();
    const ended = execSync(target, ['sh', '-c', script], { timeoutMs: 0, signal: controller.signal });
    return { ended: ended.then(({ exitCode }) => exitCode), leave: () => controller.abort(new Error('timed out')) };
  },
  'a session without a terminal': ({ target }: Running, script: string) => {
    const client = makeClient({ stdin: true });
    return { ended: execSession(target, ['sh', '-c', script], client.session), leave: client.leave };
  },
  'a session with a terminal': ({ target, bundle }: Running, script: string) => {
    const client = makeClient({ stdin: true, tty: true });
    const options = { conmonPath: '/usr/bin/conmon', directory: join(bundle.directory, 'x') };
    return { ended: execTerminal(target, ['sh', '-c', script], client.session, options), leave: client.leave };
  },
};

/** Leaves its parents and its session, and so all that could tell where it came from. */
const RUNAWAY = '(setsid sleep 941 >/dev/null 2>&1 </dev/null &); (setsid sh -c "(setsid sleep 942 &)" &);';

/** The same without holding on to the command's pipes or terminal, which is there when the script goes on. */
const DAEMON = '(setsid sh -c ": >/tmp/up; exec sleep 940" >/dev/null 2>&1 </dev/null &); until [ -e /tmp/up ]; do sleep 0.01; done';

/** Does so for ever: each of its processes starts the next one and ends. */
const HOPPER = '#!/bin/sh\n(setsid /bin/hop "$1" >/dev/null 2>&1 </dev/null &)\n';

describe.each([...RUNTIMES, ...(newRunc === undefined ? [] : [newRunc])])('the cgroup of a command with %s', (runtimePath) => {
  describe.each(Object.entries(KINDS))('in %s', (_kind, start) => {
    test('has the end of the command take with it what has left its parents and its session', async () => {
      await using container = await runContainer(runtimePath);
      const command = start(container, `${RUNAWAY} sleep 943`);
      command.ended.catch(() => {});
      await until(() => sleepers(container).join() === '941,942,943', 'the runaways');
      command.leave();
      await expect(command.ended).rejects.toThrow();
      expect(sleepers(container)).toEqual([]);
      await until(() => container.others().length === 0, 'nothing to be left');
    });

    test('lets it live on when the command ends by itself, and goes to no other command meanwhile', async () => {
      await using container = await runContainer(runtimePath);
      expect(await start(container, DAEMON).ended).toBe(0);
      await until(() => sleepers(container).join() === '940', 'the daemon');
      const next = start(container, 'sleep 944');
      next.ended.catch(() => {});
      await until(() => sleepers(container).includes('944'), 'the next command');
      next.leave();
      await expect(next.ended).rejects.toThrow();
      expect(sleepers(container)).toEqual(['940']);
    });
  });

  test('catches what never stays the same process', async () => {
    await using container = await runContainer(runtimePath);
    writeFileSync(join(container.target.bundle, 'rootfs/bin/hop'), HOPPER, { mode: 0o755 });
    const command = KINDS['ExecSync, by its timeout'](container, 'hop 1; hop 2; hop 3; sleep 945');
    command.ended.catch(() => {});
    await until(() => sleepers(container).includes('945'), 'the command');
    command.leave();
    await expect(command.ended).rejects.toThrow('timed out');
    await sleep(50);
    expect(container.others()).toEqual([]);
  });

  test('is not divided from the container where something is counted or limited', async () => {
    await using container = await runContainer(runtimePath);
    const own = controllers(readFileSync(`/proc/${container.target.init.pid}/cgroup`, 'utf8'));
    const { stdout } = await execSync(container.target, ['cat', '/proc/self/cgroup'], { timeoutMs: 0, signal: never });
    expect(controllers(String(stdout))).toEqual(own);
    expect(String(stdout)).toContain('berth-exec-0');
  });

  test('is used again: twenty commands need one, and what is left of them goes with the container', async () => {
    let bundle: TestBundle;
    {
      await using container = await runContainer(runtimePath);
      ({ bundle } = container);
      for (let index = 0; index < 20; index += 1) await execSync(container.target, ['true'], { timeoutMs: 0, signal: never });
      expect(cgroupNames(container.bundle)).toEqual(['berth-exec-0']);
      await Promise.all(Array.from({ length: 3 }, () => execSync(container.target, ['sleep', '0.5'], { timeoutMs: 0, signal: never })));
      expect(cgroupNames(container.bundle)).toEqual(['berth-exec-0', 'berth-exec-1', 'berth-exec-2']);
      await KINDS['ExecSync, by its timeout'](container, RUNAWAY).ended;
    }
    expect(cgroupNames(bundle)).toEqual([]);
  });

  test('is known to the next daemon, which ends what the dead one had started', async () => {
    await using container = await runContainer(runtimePath);
    const { bundle, cgroupProcs, init } = container.target;
    const command = KINDS['ExecSync, by its timeout'](container, `${RUNAWAY} sleep 946`);
    command.ended.catch(() => {});
    await until(() => sleepers(container).join() === '941,942,946', 'the runaways');
    const findCgroup = (name: string) => execs().find(executing(container.bundle), name);
    await endLeftExecs({ bundle, cgroupProcs, init, findCgroup });
    expect(sleepers(container)).toEqual([]);
    expect(readdirSync(bundle).filter((file) => file.startsWith('exec-'))).toEqual([]);
    await command.ended.catch(() => {});
  });

  test('is missed: without one the runaways are not found', async () => {
    await using container = await runContainer(runtimePath);
    const command = KINDS['ExecSync, by its timeout'](
      { ...container, target: { ...container.target, takeCgroup: () => NO_EXEC_CGROUP } },
      `${RUNAWAY} sleep 947`,
    );
    command.ended.catch(() => {});
    await until(() => sleepers(container).join() === '941,942,947', 'the runaways');
    command.leave();
    await expect(command.ended).rejects.toThrow('timed out');
    expect(sleepers(container)).toEqual(['941', '942']);
  });
});

/** The seconds that the container's living `sleep`s have been given. */
function sleepers({ others }: Running): string[] {
  return others()
    .flatMap((pid) => {
      const [program = '', seconds = ''] = commandLine(pid);
      return basename(program) === 'sleep' ? [seconds] : [];
    })
    .sort();
}

function commandLine(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch {
    return []; // it has just ended
  }
}

/** Lines of /proc/PID/cgroup with the cgroups that count and limit: with version 2 that is the one above, which has all controllers. */
function controllers(text: string): string[] {
  return text
    .split('\n')
    .filter((line) => !line.includes(':name=berth:'))
    .map((line) => line.replace(/^(0::.*)\/berth-exec-\d+$/, '$1'));
}

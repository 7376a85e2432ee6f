import { chmod, mkdir, mkdtempDisposable, readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { CriError } from '#base/errors.ts';
import { isAlive, type ProcessIdentity, readProcessStat } from '#base/process.ts';
import { createOciRuntime, runtimeMessage } from '../../../../server/oci/runtime.ts';
import { until } from '../../../support/wait.ts';

const signal = new AbortController().signal;
const ID = 'a'.repeat(64);

/** A runtime that is a shell script; `$verb` is its verb, the rest of the arguments are in "$@". */
async function fakeRuntime(body: string, { timeoutMs = 20_000 } = {}) {
  const dir = await mkdtempDisposable(join(tmpdir(), 'berth-runtime-'));
  const path = join(dir.path, 'runtime');
  const root = join(dir.path, 'state');
  await mkdir(root);
  await writeFile(path, `#!/bin/sh\nhere=${dir.path}\n[ "$1" = --version ] || shift\nverb=$1\n${body}\n`);
  await chmod(path, 0o755);
  const runtime = createOciRuntime({ handler: 'fake', path, root, systemdCgroup: false, timeoutMs });
  return { runtime, dir: dir.path, root, [Symbol.asyncDispose]: () => dir.remove() };
}

test('globalArgs() name the state directory, and the cgroup driver where it is systemd', () => {
  const options = { handler: 'crun', path: '/usr/bin/crun', root: '/run/x' };
  expect(createOciRuntime({ ...options, systemdCgroup: false }).globalArgs()).toEqual(['--root=/run/x']);
  expect(createOciRuntime({ ...options, systemdCgroup: true }).globalArgs()).toEqual(['--root=/run/x', '--systemd-cgroup']);
});

test('kill() passes the number of the signal', async () => {
  await using fake = await fakeRuntime('echo "$@" >> $here/calls');
  await fake.runtime.kill(ID, 37, { signal });
  expect(await readFile(join(fake.dir, 'calls'), 'utf8')).toBe(`kill ${ID} 37\n`);
});

test('start() fails with the words of the runtime, its name and the id', async () => {
  await using fake = await fakeRuntime('echo \'time="2026-01-01T00:00:00Z" level=error msg="no such \\"thing\\""\' >&2; exit 1');
  const err = await fake.runtime.start(ID, { signal }).catch((reason: unknown) => reason);
  expect(err).toBeInstanceOf(CriError);
  expect(err).toMatchObject({ kind: 'unknown', message: `fake start ${ID}: no such "thing"` });
});

test('start() fails when the binary is not there, and state() does not take that for an unknown container', async () => {
  const runtime = createOciRuntime({ handler: 'gone', path: '/nonexistent/runtime', root: '/nonexistent/state', systemdCgroup: false });
  await expect(runtime.start(ID, { signal })).rejects.toThrow(/^gone start a+: command could not be started .*ENOENT/);
  await expect(runtime.state(ID, { signal })).rejects.toThrow('ENOENT');
  await expect(runtime.kill(ID, 9, { signal })).rejects.toThrow('ENOENT');
});

test('a hung verb ends at the limit with an error that names it, and its processes are killed', async () => {
  await using fake = await fakeRuntime('sleep 1000 & echo $! > $here/pid; wait', { timeoutMs: 300 });
  const err = await fake.runtime.delete(ID, { signal }).catch((reason: unknown) => reason);
  expect(err).toMatchObject({ kind: 'deadlineExceeded', message: expect.stringMatching(/^fake delete a+: no answer from .*\/runtime within 0.3 s$/) });
  await until('the child to die', async () => isGone(Number(await readFile(join(fake.dir, 'pid'), 'utf8'))));
});

function isGone(pid: number): boolean {
  const stat = readProcessStat(pid);
  return stat === undefined || !isAlive(stat satisfies ProcessIdentity);
}

test('an aborted verb rejects with the reason of its signal, also while kill() asks for the state', async () => {
  const reason = new Error('the caller has gone');
  for (const body of ['touch $here/there; sleep 1000', '[ $verb = state ] || exit 1; touch $here/there; sleep 1000']) {
    await using fake = await fakeRuntime(body);
    const caller = new AbortController();
    const killed = fake.runtime.kill(ID, 9, { signal: caller.signal }).catch((thrown: unknown) => thrown);
    await until('the runtime to run', () =>
      readFile(join(fake.dir, 'there')).then(
        () => true,
        () => false,
      ),
    );
    caller.abort(reason);
    expect(await killed).toBe(reason);
  }
});

test('kill() succeeds when it fails because the container is stopped, and not when it runs', async () => {
  const body = (status: string): string => `if [ $verb = state ]; then echo '{"status":"${status}","pid":7}'; exit 0; fi; echo 'process not found' >&2; exit 1`;
  await using stopped = await fakeRuntime(body('stopped'));
  await stopped.runtime.kill(ID, 15, { signal });
  await using running = await fakeRuntime(body('running'));
  await expect(running.runtime.kill(ID, 15, { signal })).rejects.toThrow(`fake kill ${ID}: process not found`);
  await using paused = await fakeRuntime(body('paused'));
  expect(await paused.runtime.state(ID, { signal })).toEqual({ status: 'running', pid: 7 });
});

test('delete() succeeds when the container is unknown, and fails when the runtime still holds it', async () => {
  await using fake = await fakeRuntime('[ -e $here/known ] && [ $verb = state ] && echo \'{"status":"stopped","pid":0}\' && exit 0; echo no >&2; exit 1');
  await fake.runtime.delete(ID, { signal });
  await writeFile(join(fake.dir, 'known'), '');
  await expect(fake.runtime.delete(ID, { signal, force: true })).rejects.toThrow(`fake delete ${ID}: no`);
});

test('state() is undefined for what the runtime has no files of, and fails where it has some and cannot read them', async () => {
  await using fake = await fakeRuntime('echo broken >&2; exit 1');
  expect(await fake.runtime.state(ID, { signal })).toBeUndefined();
  await mkdir(join(fake.root, ID));
  await expect(fake.runtime.state(ID, { signal })).rejects.toThrow(`fake state ${ID}: broken`);
  await expect(fake.runtime.kill(ID, 9, { signal })).rejects.toThrow(`fake kill ${ID}: broken`);
});

test('state() fails when the answer is not a state', async () => {
  await using fake = await fakeRuntime('echo hello');
  await expect(fake.runtime.state(ID, { signal })).rejects.toThrow(`fake state ${ID}: not an OCI state: hello`);
});

test('features() reads what the runtime says, and is careful where it says nothing', async () => {
  const none = { answered: false, userNamespaces: false, idmappedMounts: false, recursiveReadOnlyMounts: false, netDevices: false };
  const linux = { namespaces: ['user', 'mount'], mountExtensions: { idmap: { enabled: true } }, netDevices: { enabled: true } };
  const said = { mountOptions: ['ro', 'rro'], linux };
  const all = { answered: true, userNamespaces: true, idmappedMounts: true, recursiveReadOnlyMounts: true, netDevices: true };
  await using modern = await fakeRuntime(`echo '${JSON.stringify(said)}'`);
  expect(await modern.runtime.features({ signal })).toEqual(all);
  await using older = await fakeRuntime(`echo '${JSON.stringify({ ...said, linux: { namespaces: ['user'] } })}'`);
  expect(await older.runtime.features({ signal })).toEqual({ ...none, answered: true, recursiveReadOnlyMounts: true });
  await using silent = await fakeRuntime('echo "unknown command features" >&2; exit 1');
  expect(await silent.runtime.features({ signal })).toEqual(none);
  await using babbling = await fakeRuntime('echo "usage: …"');
  expect(await babbling.runtime.features({ signal })).toEqual(none);
});

test('version() is the first line', async () => {
  await using fake = await fakeRuntime('[ $verb = --version ] && printf "fake version 1.2\\ncommit: x\\n"');
  expect(await fake.runtime.version({ signal })).toBe('fake version 1.2');
});

test.each([
  ['container does not exist\n', 'container does not exist'],
  ['{"msg":"error opening file `/run/x/status`: No such file","level":"error","time":"…"}\n', 'error opening file `/run/x/status`: No such file'],
  ['time="2026" level=warning msg="cgroup v1 is old"\ntime="2026" level=error msg="exec: \\"x\\": not found"\n', 'exec: "x": not found'],
  ['time="2026" level=error msg=plain\ntime="2026" level=error msg=plain\nmore', 'plain: more'],
  ['level=warning msg="only a warning"', 'only a warning'],
  ['{ not json', '{ not json'],
  ['', ''],
])('runtimeMessage() of %j is %j', (stderr, message) => {
  expect(runtimeMessage(stderr)).toBe(message);
});

test.each([
  ['crun', "echo '      --cgroup=PATH          sub-cgroup in the container'", true],
  ['runc', "echo '   --cgroup value    run the process in an (existing) sub-cgroup(s)'", true],
  ['one that has no such option', "echo '   --cgroups value'", false],
  ['one that has no help', 'exit 1', false],
])('takesExecCgroup() asks %s once', async (_name, body, takes) => {
  await using fake = await fakeRuntime(`echo "$@" >> $here/calls; ${body}`);
  for (let call = 0; call < 3; call += 1) expect(await fake.runtime.takesExecCgroup({ signal })).toBe(takes);
  expect(await readFile(join(fake.dir, 'calls'), 'utf8')).toBe('exec --help\n');
});

test('takesExecCgroup() asks again one that did not answer', async () => {
  await using fake = await fakeRuntime('[ -e $here/well ] || sleep 1000; echo " --cgroup value"');
  await expect(fake.runtime.takesExecCgroup({ signal: AbortSignal.timeout(100) })).rejects.toMatchObject({ name: 'TimeoutError' });
  await writeFile(join(fake.dir, 'well'), '');
  expect(await fake.runtime.takesExecCgroup({ signal })).toBe(true);
});

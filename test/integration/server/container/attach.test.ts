import { readFileSync, renameSync } from 'node:fs';
import { expect, test } from 'vitest';
import { reopenLog } from '../../../../conmon/conmon.ts';
import { type AttachTarget, attachSession } from '../../../../server/container/attach.ts';
import { Viewers } from '../../../../server/container/viewers.ts';
import { countFds, makeBundle, type TestBundle, until } from '../../conmon/bundle.ts';
import { type Client, type ClientOptions, GONE, makeClient } from './session.ts';

interface Running extends AsyncDisposable {
  readonly bundle: TestBundle;
  readonly attach: (options?: ClientOptions) => Client & { readonly ended: Promise<void> };
  /** The texts of the log's lines, put together. */
  readonly logged: (path?: string) => string;
}

interface Options {
  readonly stdin?: boolean;
  readonly stdinOnce?: boolean;
  readonly terminal?: boolean;
}

const never = new AbortController().signal;

async function runContainer(script: string, { stdin = false, stdinOnce = false, terminal = false }: Options = {}): Promise<Running> {
  const bundle = await makeBundle('/usr/bin/crun', { args: ['sh', '-c', script], terminal, spec: { stdin, stdinOnce } });
  const { monitor } = await bundle.startAndRun();
  const { id, bundle: directory } = bundle.spec;
  const target: AttachTarget = { id, bundle: directory, stdin, stdinOnce, terminalOf: terminal ? monitor.pid : undefined, viewers: new Viewers(never) };
  return {
    bundle,
    attach: (options = {}) => {
      const client = makeClient(options);
      const ended = attachSession(target, client.session);
      ended.catch(() => {}); // the test looks at it when it comes to it
      return { ...client, ended };
    },
    logged: (path = bundle.logPath) =>
      readFileSync(path, 'utf8')
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => line.replace(/^\S+ \S+ P /, '').replace(/^\S+ \S+ F (.*)$/, '$1\n'))
        .join(''),
    [Symbol.asyncDispose]: () => bundle[Symbol.asyncDispose](),
  };
}

test('attachSession() passes both outputs and stdin, for several clients at once', async () => {
  await using container = await runContainer('while read line; do echo "out $line"; echo "err $line" >&2; done', { stdin: true });
  const before = countFds();
  const [one, two] = [container.attach({ stdin: true }), container.attach({ stdin: true })];
  one.type('a\n');
  await until(() => one.err() === 'err a\n', 'the first answer');
  two.type('b\n');
  for (const client of [one, two]) await until(() => client.err().endsWith('err b\n'), 'the second answer');
  expect([one.out(), two.out()]).toEqual(['out a\nout b\n', expect.stringMatching(/out b\n$/)]);
  one.leave();
  await expect(one.ended).rejects.toBe(GONE);
  two.endInput();
  const three = container.attach({ stdin: true });
  three.type('c\n');
  await until(() => two.out().endsWith('out c\n'), 'the third answer');
  for (const client of [two, three]) client.leave();
  await Promise.allSettled([two.ended, three.ended]);
  expect(countFds()).toBe(before);
  expect(container.logged()).toBe('out a\nerr a\nout b\nerr b\nout c\nerr c\n');
});

test('attachSession() gives the client all that comes to the end of the container', async () => {
  await using container = await runContainer('read go; seq 1 100000; echo last >&2', { stdin: true });
  const client = container.attach({ stdin: true });
  client.type('go\n');
  await client.ended;
  expect(client.out()).toBe(Array.from({ length: 100_000 }, (_, index) => `${index + 1}\n`).join(''));
  expect(client.err()).toBe('last\n');
});

test('attachSession() gives the client the last output of a container that ends with input unread', async () => {
  await using container = await runContainer('read go; head -c 150000 /dev/zero', { stdin: true });
  const client = container.attach({ stdin: true });
  client.type(`go\n${'x'.repeat(1_000_000)}`);
  await client.ended;
  expect(client.outBytes()).toBe(150_000);
});

test('attachSession() ends the stdin of a stdinOnce container with the client that has it, not with one that looks on', async () => {
  await using container = await runContainer('cat; echo end of input; sleep 931', { stdin: true, stdinOnce: true });
  const onlooker = container.attach();
  const client = container.attach({ stdin: true });
  client.type('typed\n');
  await until(() => onlooker.out() === 'typed\n', 'the output at the onlooker');
  onlooker.leave();
  await expect(onlooker.ended).rejects.toBe(GONE);
  client.type('more\n');
  await until(() => client.out() === 'typed\nmore\n', 'the output after the onlooker');
  const late = container.attach();
  client.endInput();
  await until(() => client.out().endsWith('end of input\n'), 'the end of stdin');
  await until(() => late.out().endsWith('end of input\n'), 'the same at a late onlooker');
  expect(late.out().length).toBeLessThanOrEqual('end of input\n'.length);
});

test('attachSession() ends the stdin of a stdinOnce container when its client breaks off', async () => {
  await using container = await runContainer('cat; echo end of input; sleep 932', { stdin: true, stdinOnce: true });
  const client = container.attach({ stdin: true });
  client.type('typed\n');
  await until(() => client.out() === 'typed\n', 'the output');
  client.leave();
  await until(() => container.logged().endsWith('end of input\n'), 'the end of stdin');
});

test('attachSession() misses and doubles nothing while the log is rotated', async () => {
  await using container = await runContainer('read go; i=0; while [ $i -lt 30000 ]; do echo $i; i=$((i+1)); done; sleep 933', { stdin: true });
  const client = container.attach({ stdin: true });
  client.type('go\n');
  const rotated: string[] = [];
  while (!client.out().endsWith('29999\n')) {
    const old = `${container.bundle.logPath}.${rotated.length}`;
    renameSync(container.bundle.logPath, old);
    rotated.push(old);
    await reopenLog(container.bundle.spec.bundle, container.bundle.logPath, { signal: never, timeoutMs: 30_000 });
  }
  const expected = Array.from({ length: 30_000 }, (_, index) => `${index}\n`).join('');
  expect(client.out()).toBe(expected);
  await until(() => [...rotated, container.bundle.logPath].map((path) => container.logged(path)).join('') === expected, 'all of it in the logs');
  client.leave();
});

test('attachSession() cuts a client off that does not keep up, and never stalls the container', async () => {
  await using container = await runContainer('read go; head -c 50000000 /dev/zero | tr "\\0" x; echo; echo finished >&2; sleep 934', { stdin: true });
  const rss = (): number => process.memoryUsage().rss;
  const [slow, quick] = [container.attach({ stdin: true, held: true }), container.attach()];
  const before = rss();
  slow.type('go\n');
  await expect(slow.ended).rejects.toMatchObject({ kind: 'resourceExhausted', message: expect.stringContaining('too slow') });
  await until(() => quick.err() === 'finished\n', 'the container to finish');
  expect(rss() - before).toBeLessThan(50_000_000 + 40 * 1024 ** 2); // the quick client's own 50 MB are in this process
  expect(slow.session.stdout?.writableLength).toBeLessThan(5 * 1024 ** 2);
});

test('attachSession() lets the output go on when a container does not read its stdin', async () => {
  await using container = await runContainer('echo begun; while :; do echo tick; sleep 0.05; done', { stdin: true });
  const client = container.attach({ stdin: true });
  client.type(Buffer.alloc(1_000_000, 'x'));
  const before = client.out().length;
  await until(() => client.out().length > before + 50, 'more output');
  await until(() => container.logged().length > before + 100, 'more log');
  client.leave();
});

test('attachSession() drops the stdin for a container without one', async () => {
  await using container = await runContainer('sleep 0.5; echo done');
  const client = container.attach({ stdin: true });
  client.type(Buffer.alloc(1_000_000, 'x'));
  await client.ended;
  expect(client.out()).toBe('done\n');
});

test('attachSession() reaches a terminal, with its size', async () => {
  await using container = await runContainer('exec sh', { stdin: true, terminal: true });
  const client = container.attach({ stdin: true, tty: true, size: { width: 77, height: 22 } });
  client.type('stty size\n');
  await until(() => client.out().includes('22 77'), 'the size');
  client.resize(100, 44);
  await until(() => {
    client.type('stty size\n');
    return client.out().includes('44 100');
  }, 'the new size');
  client.type('exit\n');
  await client.ended;
});

test('attachSession() fails without a monitor, and the container does not mind when its clients are gone at once', async () => {
  await using container = await runContainer('while :; do echo tick; sleep 0.01; done', { stdin: true });
  const clients = Array.from({ length: 30 }, () => container.attach({ stdin: true }));
  await until(() => clients.every((client) => client.out().includes('tick')), 'output for all');
  for (const client of clients) client.leave();
  await Promise.allSettled(clients.map(({ ended }) => ended));
  const before = container.logged().length;
  await until(() => container.logged().length > before + 100, 'more log');
  const target: AttachTarget = { id: 'x', bundle: '/nonexistent', stdin: false, stdinOnce: false, terminalOf: undefined, viewers: new Viewers(never) };
  await expect(attachSession(target, makeClient().session)).rejects.toMatchObject({ kind: 'failedPrecondition', message: expect.stringContaining('is gone') });
});

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempDisposable, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { sleep } from '#base/abort.ts';
import { silentLog } from '#base/log.ts';
import { createNotifier } from '../../../server/notify.ts';

/** socat stands for the service manager: Node has no datagram sockets of this family. */
async function receiveDatagrams(address: string, exists: () => Promise<boolean>) {
  const socat = spawn('socat', ['-u', address, 'STDOUT'], { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = once(socat, 'close');
  const chunks: Buffer[] = [];
  socat.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
  while (!(await exists())) await sleep(5);
  return {
    text: () => Buffer.concat(chunks).toString(),
    [Symbol.asyncDispose]: async () => {
      socat.kill();
      await ended;
    },
  };
}

test('createNotifier() sends what sd_notify(3) defines to a socket of the file system', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-notify-'));
  const path = join(dir.path, 'notify');
  await using manager = await receiveDatagrams(`UNIX-RECV:${path}`, () =>
    stat(path).then(
      () => true,
      () => false,
    ),
  );
  const notifier = createNotifier(path, silentLog);
  notifier.ready();
  notifier.alive();
  notifier.stopping();
  await expect.poll(manager.text).toBe(`READY=1\nMAINPID=${process.pid}WATCHDOG=1STOPPING=1`);
});

test('createNotifier() sends to an abstract socket', async () => {
  const name = `berth-notify-${process.pid}`;
  const { readFile } = await import('node:fs/promises');
  await using manager = await receiveDatagrams(`ABSTRACT-RECV:${name}`, async () => (await readFile('/proc/net/unix', 'utf8')).includes(name));
  createNotifier(`@${name}`, silentLog).alive();
  await expect.poll(manager.text).toBe('WATCHDOG=1');
});

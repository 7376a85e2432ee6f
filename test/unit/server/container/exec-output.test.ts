import { writeSync } from 'node:fs';
import { Writable } from 'node:stream';
import { setImmediate as turn } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, test } from 'vitest';
import { Pipe } from '#base/pipe.ts';
import { Output, Pump } from '../../../../server/container/exec-output.ts';
import { until } from '../../../support/wait.ts';

/** What a session's stdout is: takes this many bytes before it says that it has enough. */
const sink = (write: (done: () => void) => void) => new Writable({ highWaterMark: 192 * 1024, write: (_chunk, _encoding, done) => write(done) });

const PUMPS = {
  over: (pipe: Pipe, to: Writable) => Pump.over(pipe, to),
  'of a stream': (pipe: Pipe, to: Writable) => Pump.of(pipe.stream(), to),
};

test.each(Object.entries(PUMPS))('Pump %s: small pieces for a client that takes nothing are few, and all come when it does', async (_name, make) => {
  using pipe = new Pipe();
  const waiting: (() => void)[] = [];
  let taken = 0;
  let stuck = true;
  const to = sink((done) => {
    taken += 1;
    if (stuck) waiting.push(done);
    else done();
  });
  using pump = make(pipe, to);
  for (let written = 0; written < 3_000; written += 1) {
    writeSync(pipe.writeEnd, 'x');
    await turn();
  }
  expect(pump.held).toBe(true);
  expect(pump.received).toBeLessThan(1_000); // of 512 bytes and one each
  stuck = false;
  for (const done of waiting) done();
  pipe.closeWrite();
  await pump.end;
  expect(pump.received).toBe(3_000);
  await until('all to be written', () => to.writableLength === 0);
  expect(taken).toBeGreaterThan(0);
  expect(pump.held).toBe(false);
});

test('Pump over a pipe drops what comes once the client has gone', async () => {
  using pipe = new Pipe();
  const waiting: (() => void)[] = [];
  const to = sink((done) => waiting.push(done));
  using pump = Pump.over(pipe, to);
  for (let written = 0; written < 2_000; written += 1) {
    writeSync(pipe.writeEnd, 'x');
    await turn();
  }
  expect(pump.held).toBe(true);
  to.destroy();
  for (const done of waiting) done();
  writeSync(pipe.writeEnd, Buffer.alloc(10_000));
  pipe.closeWrite();
  await pump.end;
  expect(pump.received).toBe(12_000);
});

/** What is in use, in MiB. */
function heap(): number {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
  return process.memoryUsage().heapUsed / 1024 ** 2;
}

test('Output keeps what is printed letter by letter in little more memory than that', { timeout: 60_000 }, async () => {
  using pipe = new Pipe();
  using output = new Output(pipe.stream(), 1024 * 1024);
  const before = heap();
  let text = '';
  for (let written = 0; written < 40_000; written += 1) {
    const letter = 'abcdefg'[written % 7] ?? '';
    writeSync(pipe.writeEnd, written === 20_000 ? letter.repeat(5_000) : letter);
    text += written === 20_000 ? letter.repeat(5_000) : letter;
    while (output.received < text.length) await turn();
  }
  expect(heap() - before).toBeLessThan(3);
  pipe.closeWrite();
  await output.end;
  expect(output.bytes().toString()).toBe(text);
});

import { expect, test } from 'vitest';
import { createDisplay, drawBars } from '../../../../server/cli/progress.ts';
import type { Digest, LayerProgress, PullProgress } from '../../../../storage/storage.ts';

const MIB = 1024 * 1024;

function layer(letter: string, state: LayerProgress['state'], received: number, total = 10): LayerProgress {
  const digest = `sha256:${letter.repeat(64)}` as Digest;
  return { digest, state, totalBytes: total * MIB, receivedBytes: received * MIB, source: state === 'downloading' ? 'example.com' : '', retries: 0 };
}

function pull(layers: readonly LayerProgress[], elapsedSeconds = 1): PullProgress {
  const rest = {
    stage: 'layers',
    startedAt: '',
    waiters: 1,
    totalBytes: 0,
    receivedBytes: 0,
    bytesPerSecond: 0,
    retries: 0,
    source: '',
    layersDone: 0,
  } as const;
  return { ...rest, image: 'app:1', elapsedSeconds, layers, summary: 'half of it' };
}

test('drawBars() has a line for the pull and one for each layer', () => {
  const layers = [
    layer('a', 'present', 10),
    layer('b', 'downloading', 5),
    layer('c', 'waiting', 0),
    layer('d', 'unpacking', 10),
    layer('e', 'downloading', 0, 0),
  ];
  expect(drawBars(pull(layers), { columns: 100, rows: 24 })).toEqual([
    'app:1: half of it',
    '  aaaaaaaaaaaa [------------------------]       10.0/10.0 MiB present',
    '  bbbbbbbbbbbb [============>           ]        5.0/10.0 MiB downloading',
    '  cccccccccccc [>                       ]        0.0/10.0 MiB waiting',
    '  dddddddddddd [========================]       10.0/10.0 MiB unpacking',
    '  eeeeeeeeeeee [========================]         0.0/0.0 MiB downloading',
  ]);
});

test('drawBars() fits the terminal, and shows what moves first', () => {
  const layers = [layer('a', 'done', 10), layer('b', 'waiting', 0), layer('c', 'downloading', 1), layer('d', 'unpacking', 10)];
  const lines = drawBars(pull(layers), { columns: 20, rows: 4 });
  expect(lines.map((line) => line.slice(2, 5))).toEqual(['p:1', 'ccc', 'ddd']);
  for (const line of lines) expect(line.length).toBeLessThan(20);
});

test('on a terminal bars are drawn over each other, and are gone in the end', () => {
  const said: string[] = [];
  const display = createDisplay({ isTTY: true, columns: 80, rows: 24, write: (text) => said.push(text) });
  display.show(pull([layer('a', 'downloading', 1)]));
  display.show(pull([layer('a', 'downloading', 2)]));
  display.end();
  display.end();
  expect(said[0]?.split('\x1b[K\n').map((line) => line.slice(0, 14))).toEqual(['app:1: half of', '  aaaaaaaaaaaa', '']);
  expect(said[1]?.startsWith('\x1b[2F\x1b[Japp:1')).toBe(true);
  expect(said.slice(2)).toEqual(['\x1b[2F\x1b[J', '']);
});

test('elsewhere each change of a layer is a line, and nothing is said for long only of what stands still', () => {
  let said = '';
  const display = createDisplay({ write: (text) => (said += text) });
  display.show(pull([layer('a', 'waiting', 0), layer('b', 'downloading', 1)]));
  expect(said).toBe('layer bbbbbbbbbbbb (10.0 MiB): downloading from example.com\napp:1: half of it\n');
  said = '';
  display.show(pull([layer('a', 'waiting', 0), layer('b', 'downloading', 2)], 10));
  expect(said).toBe('');
  display.show(pull([layer('a', 'waiting', 0), layer('b', 'downloading', 2)], 12));
  expect(said).toBe('app:1: half of it\n');
  said = '';
  display.show(pull([layer('a', 'downloading', 1), layer('b', 'done', 10)], 13));
  expect(said).toBe('layer aaaaaaaaaaaa (10.0 MiB): downloading from example.com\nlayer bbbbbbbbbbbb (10.0 MiB): done\napp:1: half of it\n');
});

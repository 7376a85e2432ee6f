import { expect, test } from 'vitest';
import { SizeReader } from '../../../../server/stream/terminal-size.ts';

function reading(...pieces: readonly string[]) {
  const reader = new SizeReader();
  const seen: unknown[] = [];
  reader.follow((size) => seen.push(size));
  for (const piece of pieces) reader.push(Buffer.from(piece));
  return { reader, seen };
}

test('SizeReader reads sizes cut anywhere, with or without line breaks between them', () => {
  const { seen, reader } = reading('{"Width":80,"Hei', 'ght":24}\n{"Width":100,"Height":40}{"Width":1', ',"Height":1}');
  expect(seen).toEqual([
    { width: 80, height: 24 },
    { width: 100, height: 40 },
    { width: 1, height: 1 },
  ]);
  expect(reader.latest).toEqual({ width: 1, height: 1 });
});

test('SizeReader passes over what is no size', () => {
  expect(reading('{"Width":0,"Height":0}', '{"Width":"80","Height":24}', '{}', '}{', '{"Width":70000,"Height":1}', '{"Width":8.5,"Height":1}').seen).toEqual(
    [],
  );
  expect(reading('x'.repeat(100_000), '}', '{"Width":80,"Height":24}').seen).toEqual([{ width: 80, height: 24 }]);
});

test('follow() tells of the latest size at once, and of none once it is ended', () => {
  const { reader } = reading('{"Width":80,"Height":24}');
  const seen: unknown[] = [];
  const end = reader.follow((size) => seen.push(size));
  end();
  reader.push(Buffer.from('{"Width":81,"Height":25}'));
  expect(seen).toEqual([{ width: 80, height: 24 }]);
});

import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { measureTree } from '../../../storage/overlay.ts';

describe('measureTree()', () => {
  const home = process.cwd();
  const { signal } = new AbortController();
  let dir: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'berth-measure-'));
  });
  afterEach(() => {
    process.chdir(home);
    rmSync(dir, { recursive: true, force: true });
  });

  /** Directories in each other, made from inside: no path is too long for that. */
  function nest(name: string, count: number): void {
    process.chdir(dir);
    for (let depth = 0; depth < count; depth += 1) {
      mkdirSync(name);
      process.chdir(name);
    }
  }

  test('counts what it can reach of a tree that is deeper than paths are long', async () => {
    nest('d'.repeat(250), 20);
    writeFileSync('out-of-reach', 'x'.repeat(10_000));
    process.chdir(dir);
    writeFileSync('file', 'x'.repeat(10_000));
    const { usedBytes, inodesUsed } = await measureTree(dir, signal);
    expect(usedBytes).toBeGreaterThanOrEqual(10_000);
    expect(inodesUsed).toBeGreaterThan(10);
    expect(inodesUsed).toBeLessThan(21);
  });

  test('holds no directory open for each level', async () => {
    nest('d', 500);
    const before = readdirSync('/proc/self/fd').length;
    let most = 0;
    let ended = false;
    const measured = measureTree(dir, signal).finally(() => {
      ended = true;
    });
    while (!ended) {
      most = Math.max(most, readdirSync('/proc/self/fd').length);
      await nextTurn();
    }
    expect((await measured).inodesUsed).toBe(500);
    expect(most - before).toBeLessThan(50);
  });
});

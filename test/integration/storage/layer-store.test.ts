import { lstatSync } from 'node:fs';
import { mkdtempDisposable } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { type ChainId, hexOf } from '../../../storage/digest.ts';
import type { LayerPlan } from '../../../storage/layer-unpack.ts';
import { openParts, planOf } from '../../fixtures/storage/parts.ts';

test('LayerStore leaves a layer in its place that somebody else has made meanwhile: it may be mounted', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-layers-'));
  await using parts = await openParts(dir.path);
  const chainId = `sha256:${'a'.repeat(64)}` as ChainId;
  const unpacked: (() => void)[] = [];
  /** Its blob is let go of when the test says so. */
  const plan: LayerPlan = {
    ...planOf(chainId),
    withBlob: async (use) => {
      const result = await use({ path: '/nonexistent', unverified: undefined });
      await new Promise<void>((resolve) => unpacked.push(resolve));
      return result;
    },
  };
  const gone = new AbortController();
  const first = parts.layers.ensure(plan, gone.signal);
  await vi.waitFor(() => expect(unpacked).toHaveLength(1));
  gone.abort(); // too late to end it
  const second = parts.layers.ensure(plan, new AbortController().signal);
  await vi.waitFor(() => expect(unpacked).toHaveLength(2));
  unpacked[0]?.();
  await vi.waitFor(() => expect(parts.layers.has(chainId)).toBe(true));
  const place = join(dir.path, 'layers', hexOf(chainId));
  const { ino } = lstatSync(place);
  unpacked[1]?.();
  await Promise.allSettled([first, second]);
  expect(lstatSync(place).ino).toBe(ino);
});

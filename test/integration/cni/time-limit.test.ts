import { expect, test, vi } from 'vitest';
import { CriError } from '#base/errors.ts';
import { readProcessStat } from '#base/process.ts';
import type { FakeCall } from '../../fakes/cni-plugin.ts';
import { failure, makeFakeNetwork, fakePod as pod } from '../../fakes/cni-plugin-network.ts';

const options = () => ({ signal: new AbortController().signal });

async function expectGone(calls: Promise<FakeCall[]>): Promise<void> {
  const hung = (await calls).at(-1);
  const alive = (number: number | undefined) => number !== undefined && !['Z', 'X', undefined].includes(readProcessStat(number)?.state);
  expect(hung?.child).toBeGreaterThan(0);
  await vi.waitFor(() => expect([alive(hung?.pid), alive(hung?.child)]).toEqual([false, false]), { timeout: 5_000 });
}

test('attach() kills a plugin that takes too long, with its children, and names it', async () => {
  await using world = await makeFakeNetwork([{}, { onAdd: 'hang' }], { addTimeoutMs: 4_000 });
  const planned = await world.cni.plan(pod, options());
  const err = await failure(world.cni.attach(planned, options()));
  expect(err).toBeInstanceOf(CriError);
  expect(err).toMatchObject({ kind: 'deadlineExceeded', message: 'CNI ADD by plugin fake1 (network pod-net) did not finish within 4 s' });
  await expectGone(world.calls());
  await world.cni.detach(planned, options());
  expect(await world.leases()).toEqual([]);
});

test('detach() has a time limit of its own', async () => {
  await using world = await makeFakeNetwork([{ onDel: 'hang' }], { delTimeoutMs: 4_000 });
  const { attachment } = await world.cni.attach(await world.cni.plan(pod, options()), options());
  await expect(world.cni.detach(attachment, options())).rejects.toThrow('CNI DEL by plugin fake0 (network pod-net) did not finish within 4 s');
  await expectGone(world.calls());
});

test('attach() ends with the reason of the caller’s signal', async () => {
  await using world = await makeFakeNetwork([{ onAdd: 'hang' }]);
  const planned = await world.cni.plan(pod, options());
  const controller = new AbortController();
  const attaching = failure(world.cni.attach(planned, { signal: controller.signal }));
  await vi.waitFor(async () => expect(await world.calls()).toHaveLength(1), { timeout: 10_000 });
  const reason = new CriError('cancelled', 'the kubelet has left');
  controller.abort(reason);
  expect(await attaching).toBe(reason);
  await expectGone(world.calls());
  expect(await failure(world.cni.attach(planned, { signal: controller.signal }))).toBe(reason);
});

test('attach() does not wait for ever for a child that left the plugin and keeps its stdout', async () => {
  await using world = await makeFakeNetwork([{ onAdd: 'escape' }], { addTimeoutMs: 2_000 });
  const planned = await world.cni.plan(pod, options());
  const err = await failure(world.cni.attach(planned, options()));
  const [call] = await world.calls();
  process.kill(call?.child ?? Number.NaN, 'SIGKILL');
  expect(err).toMatchObject({ kind: 'deadlineExceeded', message: 'CNI ADD by plugin fake0 (network pod-net) did not finish within 2 s' });
  await world.cni.detach(planned, options());
  expect(await world.leases()).toEqual([]);
});

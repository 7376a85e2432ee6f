import { readFileSync } from 'node:fs';
import { status } from '@grpc/grpc-js';
import { expect, test } from 'vitest';
import { rpcs } from '../../../server/service.ts';
import { serveApi } from '../../fakes/api.ts';

test('rpcs lists every RPC of api.proto, in its order', () => {
  const proto = readFileSync(new URL('../../../proto/api.proto', import.meta.url), 'utf8');
  const found = [...proto.matchAll(/^service (\w+)|^ {2}rpc (\w+)\(\w+\) returns \((stream )?/gm)];
  let service = '';
  const expected = found.flatMap(([, name, rpc, stream]) => {
    if (name !== undefined) service = name;
    return rpc === undefined ? [] : [[rpc, service, stream !== undefined]];
  });
  expect(Object.entries(rpcs).map(([name, shape]) => [name, shape.service, shape.stream])).toEqual(expected);
  expect(expected).toHaveLength(43);
});

test('rpcs logs at debug what lists, reads or streams a list, and nothing that changes something', () => {
  const quiet = Object.entries(rpcs).flatMap(([name, shape]) => (shape.quiet ? [name] : []));
  expect(quiet.filter((name) => !/^(List|Stream|Version$|RuntimeConfig$|ExecSync$|ImageFsInfo$)|Stat(us|s)$/.test(name))).toEqual([]);
});

test('buildServices() answers UNIMPLEMENTED, by name, where there is no handler', async () => {
  await using api = await serveApi({});
  for (const name of ['CheckpointPod', 'PullImage'] as const) {
    await expect(api.call(name)).rejects.toMatchObject({ code: status.UNIMPLEMENTED, details: `${name} is not implemented by this version of Berth` });
  }
  const { promise, resolve } = Promise.withResolvers<unknown>();
  api
    .stream('StreamImages')
    .on('data', () => {})
    .on('error', resolve);
  expect(await promise).toMatchObject({ code: status.UNIMPLEMENTED });
});

test('drain() ends streams, waits for the other calls and refuses new ones', async () => {
  const gate = Promise.withResolvers<void>();
  const begun = { stream: Promise.withResolvers<void>(), call: Promise.withResolvers<void>() };
  await using api = await serveApi({
    async GetContainerEvents(_request, { signal }) {
      begun.stream.resolve();
      await new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
    },
    async StopContainer() {
      begun.call.resolve();
      await gate.promise;
      return {};
    },
  });
  const events = Promise.withResolvers<unknown>();
  api
    .stream('GetContainerEvents')
    .on('data', () => {})
    .on('error', events.resolve);
  const stopped = api.call('StopContainer');
  await Promise.all([begun.stream.promise, begun.call.promise]);
  expect(api.services.running).toBe(2);

  const drained = api.services.drain();
  expect(await events.promise).toMatchObject({ code: status.UNAVAILABLE, details: 'berth is stopping' });
  await expect(api.call('StopContainer')).rejects.toMatchObject({ code: status.UNAVAILABLE });
  expect(api.services.running).toBe(1);
  gate.resolve();
  await drained;
  await stopped;
  expect(api.services.running).toBe(0);
});

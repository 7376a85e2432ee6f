import type { MethodDefinition } from '@grpc/grpc-js';
import { expect, test } from 'vitest';
import type { Init, RpcName, Rpcs } from '../../../proto/cri.ts';
import { loadCri } from '../../../proto/load.ts';

const { RuntimeService, ImageService } = loadCri();

function method(rpc: RpcName): MethodDefinition<object, object> {
  const found = RuntimeService[rpc] ?? ImageService[rpc];
  if (found === undefined) throw new Error(`${rpc}: not loaded`);
  return found;
}

/** The response as the other side reads it. */
function roundTrip<Name extends RpcName>(rpc: Name, response: Init<Rpcs[Name]['response']>): Rpcs[Name]['response'] {
  const { responseSerialize, responseDeserialize } = method(rpc);
  return responseDeserialize(responseSerialize(response as object)) as Rpcs[Name]['response'];
}

test('loadCri() has every RPC of both services', () => {
  expect(Object.keys(RuntimeService)).toHaveLength(37);
  expect(Object.keys(ImageService)).toHaveLength(6);
  expect(method('RunPodSandbox').path).toBe('/runtime.v1.RuntimeService/RunPodSandbox');
  expect(method('GetContainerEvents')).toMatchObject({ requestStream: false, responseStream: true });
});

test('loadCri() keeps bytes', () => {
  const stdout = Buffer.from([0, 0xff, 0xc3, 0x28, 10]);
  const back = roundTrip('ExecSync', { stdout, exit_code: -1 });
  expect(Buffer.isBuffer(back.stdout)).toBe(true);
  expect(back).toEqual({ stdout, stderr: Buffer.alloc(0), exit_code: -1 });
});

test('loadCri() gives 64-bit integers as decimals, to the last digit', () => {
  const created_at = '1785763212345678901';
  expect(roundTrip('PodSandboxStatus', { status: { created_at } }).status?.created_at).toBe(created_at);
  expect(roundTrip('PodSandboxStatus', { timestamp: '-9223372036854775808' }).timestamp).toBe('-9223372036854775808');
  expect(roundTrip('ListImages', { images: [{ size: '18446744073709551615' }] }).images[0]?.size).toBe('18446744073709551615');
  expect(roundTrip('PodSandboxStatus', { status: {} }).status?.created_at).toBe('0');
});

test('loadCri() gives what is absent as null when it is a message, and as empty otherwise', () => {
  expect(roundTrip('ImageStatus', {})).toEqual({ image: null, info: {} });
  const image = roundTrip('ImageStatus', { image: { id: 'sha256:1' } }).image;
  expect(image).toEqual({ id: 'sha256:1', repo_tags: [], repo_digests: [], size: '0', uid: null, username: '', spec: null, pinned: false });
  expect(roundTrip('ImageStatus', { image: { uid: { value: '0' } } }).image?.uid).toEqual({ value: '0' });
});

test('loadCri() keeps null and empty apart where both can be sent', () => {
  expect(roundTrip('PodSandboxStatus', { status: { network: null } }).status?.network).toBeNull();
  expect(roundTrip('PodSandboxStatus', { status: { network: {} } }).status?.network).toEqual({ ip: '', additional_ips: [] });
});

test('loadCri() gives enums as numbers, also those that it does not know', () => {
  expect(roundTrip('ListContainers', { containers: [{ state: 2 }] }).containers[0]?.state).toBe(2);
  const { requestDeserialize } = method('CreateContainer');
  const unknown = Buffer.from('120390017f', 'hex'); // config { stop_signal: 127 }
  expect(requestDeserialize(unknown)).toMatchObject({ config: { stop_signal: 127 } });
});

test('loadCri() skips fields that a newer client has', () => {
  const { requestDeserialize } = method('Version');
  const newer = Buffer.from('0a05302e312e30 f87f01'.replaceAll(' ', ''), 'hex'); // version "0.1.0" and field 2047
  expect(requestDeserialize(newer)).toEqual({ version: '0.1.0' });
});

test('loadCri() keeps maps, with keys that an object has by itself', () => {
  const labels = { 'io.kubernetes.pod.name': 'a', constructor: 'b', '': 'c' };
  expect(roundTrip('ListPodSandbox', { items: [{ labels }] }).items[0]?.labels).toEqual(labels);
});

test('loadCri() keeps names as api.proto has them', () => {
  const { requestSerialize, requestDeserialize } = method('CreateContainer');
  const config = { CDI_devices: [{ name: 'acme.com/gpu=0' }], mounts: [{ uidMappings: [{ host_id: 1, container_id: 2, length: 3 }] }] };
  expect(requestDeserialize(requestSerialize({ config }))).toMatchObject({ config });
});

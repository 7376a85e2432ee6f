import { type ChildProcess, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { type ClientStream, SpdyClient } from '../fakes/spdy-client.ts';
import { streamClients } from '../support/clients.ts';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { NGINX } from '../support/images.ts';
import { ensureImage, makePod, runPod, startContainer } from '../support/pod.ts';
import { listenInPod } from '../support/pod-server.ts';
import { until } from '../support/wait.ts';

let daemon: Daemon;
let podId: string;
let netns: string;

beforeAll(async () => {
  daemon = await startDaemon({ handler: 'crun', registry: inject('registry') });
  podId = await runPod(daemon, makePod(daemon));
  netns = join(daemon.directory, 'ns/netns', `berth-${podId}`);
});
afterAll(async () => {
  await daemon[Symbol.asyncDispose]();
});

async function connectClient(pod_sandbox_id = podId): Promise<SpdyClient> {
  const { url } = await daemon.cri.PortForward({ pod_sandbox_id, port: [] });
  return await SpdyClient.connect(url, { protocols: ['portforward.k8s.io'] });
}

let requests = 0;
async function forward(client: SpdyClient, port: number): Promise<{ data: ClientStream; error: ClientStream }> {
  requests += 1;
  const common = { port: String(port), requestID: String(requests) };
  const error = await client.open({ streamType: 'error', ...common });
  error.end(); // as client-go does: it only reads this one
  return { error, data: await client.open({ streamType: 'data', ...common }) };
}

/** Reads to the end, and ends then. */
const sink = (socket: Socket): void => {
  socket.resume().once('end', () => socket.end());
};

const sha = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

test.each([4, 6] as const)('a connection reaches a server that listens by IPv%i alone, and each side can end first', async (family) => {
  await using server = await listenInPod(netns, (socket) => socket.pipe(socket), family);
  const client = await connectClient();
  const { data, error } = await forward(client, server.port);
  await data.write('hello');
  data.end(); // the pod's answer comes after that
  expect(await data.text()).toBe('hello');
  expect(await error.text()).toBe('');
  await until('the end of the connection', () => server.connections.size === 0);

  await using early = await listenInPod(netns, (socket) => socket.end('bye').resume(), family);
  const second = await forward(client, early.port);
  expect(await second.data.text()).toBe('bye');
  expect(await second.error.text()).toBe(''); // ended by the pod's end alone: clients wait for it
  second.data.reset();
  await until('the end of the connection', () => early.connections.size === 0);
  client.destroy();
});

test('a port that nobody listens on is reported on the error stream, and the session goes on', async () => {
  await using server = await listenInPod(netns, (socket) => socket.end('here'));
  const client = await connectClient();
  const refused = await forward(client, 1);
  expect(await refused.error.text()).toBe('forward to port 1: nothing answers in the pod: 127.0.0.1:1 ECONNREFUSED, [::1]:1 ECONNREFUSED');
  await until('the reset', () => refused.data.wasReset);
  expect(await (await forward(client, server.port)).data.text()).toBe('here');
  client.destroy();
});

test('100 connections of one session carry their bytes apart, both ways at once', async () => {
  await using server = await listenInPod(netns, (socket) => socket.pipe(socket));
  const client = await connectClient();
  await Promise.all(
    Array.from({ length: 100 }, async () => {
      const bytes = randomBytes(100_000);
      const { data, error } = await forward(client, server.port);
      const answer = data.text();
      await data.write(bytes.toString('base64'));
      data.end();
      expect(sha(Buffer.from(await answer, 'base64'))).toBe(sha(bytes));
      expect(await error.text()).toBe('');
    }),
  );
  expect(server.accepted()).toBe(100);
  await until('the end of the connections', () => server.connections.size === 0);
  client.destroy();
});

test('a client that goes, or resets a stream, ends its connections in the pod', async () => {
  await using server = await listenInPod(netns, sink);
  const client = await connectClient();
  const [first, second] = [await forward(client, server.port), await forward(client, server.port)];
  await Promise.all([first.data.write('x'), second.data.write('x')]);
  await until('both connections', () => server.connections.size === 2);
  first.data.reset();
  await until('one connection', () => server.connections.size === 1);
  client.destroy();
  await until('no connection', () => server.connections.size === 0);
});

test('stopping the pod ends the sessions and the connections; after it nothing is forwarded, with the reason', async () => {
  const pod = await runPod(daemon, makePod(daemon));
  const client = await connectClient(pod);
  await using server = await listenInPod(join(daemon.directory, 'ns/netns', `berth-${pod}`), sink);
  const { data } = await forward(client, server.port);
  await data.accepted;
  await until('the connection', () => server.connections.size === 1);
  const { url } = await daemon.cri.PortForward({ pod_sandbox_id: pod, port: [80] });
  await daemon.cri.StopPodSandbox({ pod_sandbox_id: pod });
  await client.closed;
  await until('the end of the connection', () => server.connections.size === 0);

  const late = await SpdyClient.connect(url, { protocols: ['portforward.k8s.io'] });
  expect(await (await forward(late, 80)).error.text()).toBe(`forward to port 80: pod sandbox ${pod} is not running any more`);
  late.destroy();
  await expect(daemon.cri.PortForward({ pod_sandbox_id: pod, port: [80] })).rejects.toMatchObject({
    code: status.FAILED_PRECONDITION,
    details: `pod_sandbox_id: sandbox ${pod} is not ready: a port needs a running pod`,
  });
});

test('PortForward names what is wrong with a request', async () => {
  await expect(daemon.cri.PortForward({ pod_sandbox_id: 'f00', port: [80] })).rejects.toMatchObject({ code: status.NOT_FOUND });
  await expect(daemon.cri.PortForward({ pod_sandbox_id: podId, port: [80, 70_000] })).rejects.toMatchObject({
    code: status.INVALID_ARGUMENT,
    details: 'port[1]: 70000 is not a port from 1 to 65535',
  });
});

test('a pod in the network of the node is forwarded to there', async () => {
  const pod = await runPod(daemon, makePod(daemon, { hostNetwork: true }));
  await using server = await listenInPod('/proc/self/ns/net', (socket) => socket.end('the node'));
  const client = await connectClient(pod);
  expect(await (await forward(client, server.port)).data.text()).toBe('the node');
  client.destroy();
});

/** A client as people have it, forwarding to a port from one that it chooses. */
async function forwardBy(clientName: string, pod: string, port: number): Promise<{ localPort: number; child: ChildProcess }> {
  const client = streamClients(daemon).find(({ name }) => name === clientName);
  const [file, ...args] = client?.portForward(pod, `:${port}`) ?? [];
  const child = spawn(file ?? '', args, { cwd: daemon.directory });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (text: Buffer) => {
      said += text;
    });
  }
  const localPort = await until(`${clientName} to listen`, () => {
    if (child.exitCode !== null) throw new Error(said);
    return Number(/Forwarding from 127\.0\.0\.1:(\d+)/.exec(said)?.[1]) || undefined;
  });
  return { localPort, child };
}

async function end(child: ChildProcess): Promise<void> {
  const exited = once(child, 'exit');
  child.kill('SIGINT');
  await exited;
}

test.each(streamClients({ socket: '' }).map(({ name }) => name))(
  'a client that people have forwards a web page, and 50 MB with equal checksums both ways: %s',
  async (clientName) => {
    const pod = makePod(daemon);
    const id = await runPod(daemon, pod);
    await ensureImage(daemon, NGINX);
    await startContainer(daemon, pod, id, { image: NGINX, args: [] });
    // Clients give up their session at the first port that nobody listens on.
    const ip = (await daemon.cri.PodSandboxStatus({ pod_sandbox_id: id })).status?.network?.ip;
    await until('the web server', async () => (await fetch(`http://${ip}/`).catch(() => undefined))?.ok);
    const web = await forwardBy(clientName, id, 80);
    expect((await fetch(`http://127.0.0.1:${web.localPort}/`)).ok).toBe(true);
    await end(web.child);

    const bytes = randomBytes(50_000_000);
    const received = createHash('sha256');
    await using server = await listenInPod(join(daemon.directory, 'ns/netns', `berth-${id}`), (socket) => {
      socket.on('data', (piece) => received.update(piece));
      socket.write(bytes);
      socket.once('end', () => socket.end());
    });
    const { localPort, child } = await forwardBy(clientName, id, server.port);
    const socket = connect({ host: '127.0.0.1', port: localPort });
    const back = createHash('sha256');
    let length = 0;
    socket.on('data', (piece) => {
      back.update(piece);
      length += piece.length;
      if (length === bytes.length) socket.end();
    });
    socket.write(bytes);
    await once(socket, 'close');
    expect(back.digest('hex')).toBe(sha(bytes));
    await until('the end in the pod', () => server.connections.size === 0);
    expect(received.digest('hex')).toBe(sha(bytes));
    await end(child);
  },
);

// What clients of exec and port-forward get through a runtime's streaming server, with the daemon's memory beside it.
import { once } from 'node:events';
import { mkdir } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { WebSocket } from 'ws';
import { sleep } from '#base/abort.ts';
import { type ClientStream, SpdyClient } from '../fakes/spdy-client.ts';
import type { Peer } from './peer.ts';
import { add, type Measured, podConfig, podUp, pssKib } from './rounds.ts';

const BYTES = 200 * 1024 ** 2;
const FLOOD_PORT = 9000;
const ECHO_PORT = 9001;
/** Both wait for connections and run a command for each. */
const SERVERS = `nc -ll -p ${FLOOD_PORT} -e dd if=/dev/zero bs=1M count=200 & nc -ll -p ${ECHO_PORT} -e cat & wait`;
const PIPE = { stdin: false, stdout: true, stderr: false, tty: false };
const ROUND_TRIPS = 300;
const EXECS = 20;
const FIRST_BYTE_MS = 3_000;
/** containerd loses the output of a command with a terminal that ends at once. */
const STAYS = ['sh', '-c', 'echo x; exec sleep 1'];

/** One pod with a server in it; each figure `times` times. */
export async function measureStreams(peer: Peer, times: number, into: Measured): Promise<void> {
  const { cri } = peer;
  const logs = join(peer.directory, 'logs');
  await mkdir(logs, { recursive: true });
  const { pod, container } = await podUp(peer, podConfig(peer, logs), ['sh', '-c', SERVERS]);
  const { status } = await cri.PodSandboxStatus({ pod_sandbox_id: pod });
  const ip = status?.network?.ip ?? '';
  await listening(ip, ECHO_PORT);
  const flood = ['dd', 'if=/dev/zero', 'bs=1M', 'count=200'];
  const execUrl = async (): Promise<string> => (await cri.Exec({ container_id: container, cmd: flood, ...PIPE })).url;
  const forward = async (port: number): Promise<Forwarded> => openForward((await cri.PortForward({ pod_sandbox_id: pod, port: [] })).url, port);

  const peak = watchMemory(peer.pid);
  for (let i = 0; i < times; i += 1) {
    await timeBytes('200 MB out of exec by SPDY', into, async () => receiveSpdy(await execUrl()));
    await timeBytes('200 MB out of exec by WebSocket', into, async () => receiveWebSocket(await execUrl()));
    await timeBytes('port-forward throughput', into, async () => {
      const { client, data } = await forward(FLOOD_PORT);
      await countTo(BYTES, data.received, (piece: Buffer) => piece.length);
      client.destroy();
    });
  }
  for (const tty of [false, true]) {
    const key = tty ? 'exec with a terminal, first byte' : 'exec without a terminal, first byte';
    for (let i = 0; i < EXECS; i += 1) {
      const began = performance.now();
      const { url } = await cri.Exec({ container_id: container, cmd: STAYS, ...PIPE, tty });
      if (!(await receiveFirstByte(url, tty))) break; // containerd does not always give one
      add(into.figures, key, performance.now() - began);
    }
  }
  const direct = connect({ host: ip, port: ECHO_PORT, noDelay: true });
  const plainMs = await roundTripMs(direct, async (byte) => void direct.write(byte));
  direct.destroy();
  const { client, data } = await forward(ECHO_PORT);
  const forwardedMs = await roundTripMs(data.received, (byte) => data.write(byte));
  client.destroy();
  add(into.figures, 'port-forward, added to a round trip', forwardedMs - plainMs);
  add(into.figures, 'daemon PSS while streaming, more than before', peak());

  await cri.StopContainer({ container_id: container, timeout: '0' });
  await cri.StopPodSandbox({ pod_sandbox_id: pod });
  await cri.RemovePodSandbox({ pod_sandbox_id: pod });
}

async function listening(host: string, port: number): Promise<void> {
  for (let tries = 0; ; tries += 1) {
    const socket = connect({ host, port });
    try {
      await once(socket, 'connect');
      return;
    } catch (err) {
      if (tries > 500) throw err;
      await sleep(20);
    } finally {
      socket.destroy();
    }
  }
}

async function timeBytes(key: string, into: Measured, work: () => Promise<void>): Promise<void> {
  const began = performance.now();
  await work();
  add(into.figures, key, BYTES / 1e6 / ((performance.now() - began) / 1000));
}

/** Resolves when as many bytes have come. */
function countTo<T>(
  bytes: number,
  source: { on(event: 'data' | 'message', listener: (piece: T) => void): unknown },
  length: (piece: T) => number,
  event: 'data' | 'message' = 'data',
): Promise<void> {
  return new Promise((resolve) => {
    let count = 0;
    source.on(event, (piece) => {
      count += length(piece);
      if (count >= bytes) resolve();
    });
  });
}

async function receiveSpdy(url: string): Promise<void> {
  const client = await SpdyClient.connect(url, { protocols: ['v4.channel.k8s.io'] });
  await client.open({ streamType: 'error' });
  const stdout = await client.open({ streamType: 'stdout' });
  await countTo(BYTES, stdout.received, (piece: Buffer) => piece.length);
  client.destroy();
}

async function receiveWebSocket(url: string): Promise<void> {
  const ws = new WebSocket(url, ['v4.channel.k8s.io'], { perMessageDeflate: false });
  await countTo(BYTES, ws, (message: Buffer) => (message[0] === 1 ? message.length - 1 : 0), 'message');
  ws.terminate();
}

/** A client with a terminal tells its size at once. */
async function receiveFirstByte(url: string, tty: boolean): Promise<boolean> {
  const ws = new WebSocket(url, ['v4.channel.k8s.io'], { perMessageDeflate: false });
  if (tty) ws.on('open', () => ws.send(Buffer.from('\x04{"Width":80,"Height":24}')));
  const came = countTo(1, ws, (message: Buffer) => (message[0] === 1 ? message.length - 1 : 0), 'message').then(() => true);
  const inTime = await Promise.race([came, sleep(FIRST_BYTE_MS, undefined).then(() => false)]);
  ws.terminate();
  return inTime;
}

interface Forwarded {
  readonly client: SpdyClient;
  readonly data: ClientStream;
}

async function openForward(url: string, port: number): Promise<Forwarded> {
  const client = await SpdyClient.connect(url, { protocols: ['portforward.k8s.io'] });
  const headers = { port: String(port), requestID: '0' };
  await client.open({ streamType: 'error', ...headers });
  return { client, data: await client.open({ streamType: 'data', ...headers }) };
}

/** The median of one byte there and back. */
async function roundTripMs(answers: Pick<Duplex | Socket, 'once'>, send: (byte: string) => Promise<void>): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < ROUND_TRIPS; i += 1) {
    const began = performance.now();
    const answer = new Promise((resolve) => answers.once('data', resolve));
    await send('x');
    await answer;
    times.push(performance.now() - began);
  }
  return times.sort((a, b) => a - b)[ROUND_TRIPS / 2] ?? Number.NaN;
}

/** Looks every 50 ms; the answer is the most there was above what was there at first, in MiB. */
function watchMemory(pid: number): () => number {
  const before = pssKib(pid);
  let most = before;
  const timer = setInterval(() => {
    most = Math.max(most, pssKib(pid));
  }, 50);
  return () => {
    clearInterval(timer);
    return (most - before) / 1024;
  };
}

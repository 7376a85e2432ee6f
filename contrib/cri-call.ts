// Calls one RPC of a CRI socket and prints the answer as JSON: for the quick start, where crictl may not be had.
//   cri-call SOCKET METHOD [JSON|@FILE]
import { readFileSync } from 'node:fs';
import { Client, credentials } from '@grpc/grpc-js';
import { loadCri } from '../proto/load.ts';

const TIMEOUT_MS = 300_000;

/** Bytes are shown as text: what the CRI has of them is output of commands, and environment. */
const showBytes = (_key: string, value: unknown): unknown =>
  typeof value === 'object' && value !== null && 'type' in value && value.type === 'Buffer' && 'data' in value
    ? Buffer.from(value.data as number[]).toString()
    : value;

async function call(socket: string, method: string, request: object): Promise<unknown> {
  const { RuntimeService, ImageService } = loadCri();
  const definition = RuntimeService[method] ?? ImageService[method];
  if (definition === undefined) throw new Error(`${method}: no such RPC`);
  if (definition.responseStream) throw new Error(`${method}: answers with a stream`);
  const client = new Client(`unix:${socket}`, credentials.createInsecure());
  try {
    return await new Promise((resolve, reject) => {
      const done = (err: Error | null, answer?: unknown): void => (err === null ? resolve(answer) : reject(err));
      client.makeUnaryRequest(
        definition.path,
        definition.requestSerialize,
        definition.responseDeserialize,
        request,
        { deadline: Date.now() + TIMEOUT_MS },
        done,
      );
    });
  } finally {
    client.close();
  }
}

const [socket, method, json = '{}'] = process.argv.slice(2);
if (socket === undefined || method === undefined) {
  console.error('Usage: cri-call SOCKET METHOD [JSON|@FILE]');
  process.exit(2);
}
try {
  const request: unknown = JSON.parse(json.startsWith('@') ? readFileSync(json.slice(1), 'utf8') : json);
  console.log(JSON.stringify(await call(socket, method, request as object), showBytes, 1));
} catch (err) {
  console.error(`cri-call: ${method}: ${err instanceof Error ? err.message : String(err)}`);
  process.exit(1);
}

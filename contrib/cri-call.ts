// Calls one RPC of a CRI socket and prints the answer as JSON: for the quick start, where crictl may not be had.
//   cri-call SOCKET METHOD [JSON|@FILE [FIELD]]
// FIELD, such as items.id, prints only that, one value a line and without quotes.
import { readFileSync } from 'node:fs';
import { Client, credentials } from '@grpc/grpc-js';
import { loadCri } from '../proto/load.ts';

const TIMEOUT_MS = 300_000;

/** Bytes are shown as text: what the CRI has of them is output of commands, and environment. */
function withText(value: unknown): unknown {
  if (Buffer.isBuffer(value)) return value.toString();
  if (Array.isArray(value)) return value.map(withText);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, withText(item)]));
}

/** The values at a path; lists on the way are gone through. */
function pick(value: unknown, path: readonly string[]): unknown[] {
  if (Array.isArray(value)) return value.flatMap((item) => pick(item, path));
  const [key, ...rest] = path;
  if (key === undefined) return [value];
  return typeof value === 'object' && value !== null && key in value ? pick((value as Record<string, unknown>)[key], rest) : [];
}

const print = (value: unknown): void => console.log(typeof value === 'string' ? value : JSON.stringify(value, undefined, 1));

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

const [socket, method, json = '{}', field] = process.argv.slice(2);
if (socket === undefined || method === undefined) {
  console.error('Usage: cri-call SOCKET METHOD [JSON|@FILE [FIELD]]');
  process.exit(2);
}
try {
  const request: unknown = JSON.parse(json.startsWith('@') ? readFileSync(json.slice(1), 'utf8') : json);
  const answer = withText(await call(socket, method, request as object));
  if (field === undefined) print(answer);
  else for (const value of pick(answer, field.split('.'))) print(value);
} catch (err) {
  console.error(`cri-call: ${method}: ${err instanceof Error ? err.message : String(err)}`);
  process.exit(1);
}

// A global setup of vitest for the end-to-end tests: one registry with the conformance images, for the whole run.
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import type { TestProject } from 'vitest/node';
import { sleep } from '#base/abort.ts';
import { run } from '#base/exec.ts';
import { conformanceImages, FIXTURES, makeOnce } from './images.ts';
import { CACHE, findTool } from './tool.ts';

declare module 'vitest' {
  interface ProvidedContext {
    /** `host:port` of a plain HTTP registry that holds the conformance images; empty where there is none. */
    registry: string;
  }
}

/** A running registry. */
export interface Registry extends AsyncDisposable {
  readonly address: string;
}

/** A registry that holds more than the conformance images, and is kept apart for that. */
export interface MoreContent {
  readonly name: string;
  fill(address: string): Promise<void>;
}

/** Starts Debian's docker-registry on a free port of the loopback, filled with the conformance images. */
export async function startRegistry(more?: MoreContent): Promise<Registry> {
  const images = await conformanceImages();
  const data = join(CACHE, more === undefined ? 'registry' : `registry-${more.name}`);
  if (!existsSync(data)) {
    await makeOnce(data, async (directory) => {
      await using filling = await serve(directory);
      await run(join(FIXTURES, 'push.sh'), [images, filling.address], { signal: AbortSignal.timeout(120_000) });
      await more?.fill(filling.address);
    });
  }
  return serve(data);
}

/** Parts of docker-registry's configuration beside its storage; see its documentation, "Configuring a registry". */
export interface RegistrySettings {
  /** Under `http`: certificate, key and `clientcas`. */
  readonly tls?: Readonly<Record<string, unknown>>;
  readonly auth?: Readonly<Record<string, unknown>>;
}

async function serve(data: string): Promise<Registry> {
  const port = await freePort();
  const server = await serveRegistry(data, `${data}.${port}.yml`, port);
  try {
    await answers(`http://${server.address}/v2/`);
  } catch (err) {
    await server[Symbol.asyncDispose]();
    throw err;
  }
  return server;
}

/** Starts a registry over the images in `data`, with its configuration written to `config`; resolves when it listens. */
export async function serveRegistry(data: string, config: string, port: number, { tls, auth }: RegistrySettings = {}): Promise<Registry> {
  const address = `127.0.0.1:${port}`;
  const settings = {
    version: '0.1',
    log: { level: 'warn', accesslog: { disabled: true } },
    storage: { filesystem: { rootdirectory: data }, delete: { enabled: true } },
    http: { addr: address, net: 'tcp', secret: 'one for all', ...(tls === undefined ? {} : { tls }) },
    ...(auth === undefined ? {} : { auth }),
  };
  writeFileSync(config, JSON.stringify(settings)); // which is YAML, too
  mkdirSync(CACHE, { recursive: true });
  const log = openSync(join(CACHE, 'registry.log'), 'a');
  const server = spawn('docker-registry', ['serve', config], { stdio: ['ignore', log, log], env: { PATH: process.env.PATH, OTEL_TRACES_EXPORTER: 'none' } });
  closeSync(log);
  try {
    await listens(port, server);
  } catch (err) {
    await stop(server, config);
    throw err;
  }
  return { address, [Symbol.asyncDispose]: () => stop(server, config) };
}

async function stop(server: ChildProcess, config: string): Promise<void> {
  const ended = server.exitCode !== null || server.signalCode !== null;
  if (!ended) {
    const exit = new Promise((resolve) => server.once('exit', resolve));
    server.kill('SIGKILL');
    await exit;
  }
  rmSync(config, { force: true });
}

async function listens(port: number, server: ChildProcess): Promise<void> {
  for (let attempt = 0; attempt < 600; attempt += 1) {
    if (server.exitCode !== null) throw new Error(`docker-registry ended with ${server.exitCode}: see ${join(CACHE, 'registry.log')}`);
    const open = await new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1', () => resolve(true)).on('error', () => resolve(false));
      socket.on('connect', () => socket.destroy());
    });
    if (open) return;
    await sleep(50);
  }
  throw new Error(`docker-registry does not listen on port ${port}`);
}

async function answers(url: string): Promise<void> {
  for (let attempt = 0; attempt < 600; attempt += 1) {
    const ok = await fetch(url).then(
      (response) => response.ok,
      () => false,
    );
    if (ok) return;
    await sleep(50);
  }
  throw new Error(`docker-registry does not answer at ${url}`);
}

export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() => resolve(address !== null && typeof address === 'object' ? address.port : 0));
    });
  });
}

let registry: Registry | undefined;

/** Called by vitest before the first test file. */
export async function setup(project: TestProject): Promise<void> {
  if (process.getuid?.() === 0 && findTool('docker-registry') !== undefined) registry = await startRegistry();
  project.provide('registry', registry?.address ?? '');
}

/** Called by vitest after the last one. */
export async function teardown(): Promise<void> {
  await registry?.[Symbol.asyncDispose]();
}

import { once } from 'node:events';
import { closeSync, statSync, writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { dirname } from 'node:path';
import { orAborted, withTimeout } from '#base/abort.ts';
import { CriError, describeError, isErrno } from '#base/errors.ts';
import { spawnProcess } from '#base/exec.ts';
import { Pipe } from '#base/pipe.ts';
import { cloneIdmapped, MS, mount } from '#base/sys.ts';
import { formatIdMap, type IdMaps } from '../oci/id-mapping.ts';

/** Kinds of namespaces that can be made together with a user namespace, which owns them then. */
export type OwnedKind = 'net' | 'ipc' | 'uts';

/**
 * Runs `use` while a process holds a new user namespace with these mappings and new namespaces that it owns. Whoever has
 * more than one thread cannot enter a user namespace, so unshare(1) makes it; and who has just been put into one may not
 * pin it outside, so that is done here. `cat` answers when it has been reached, and ends with its input.
 */
export async function withUserNamespace<T>(
  maps: IdMaps,
  kinds: readonly OwnedKind[],
  signal: AbortSignal,
  use: (pathOf: (kind: OwnedKind | 'user') => string) => T | Promise<T>,
): Promise<T> {
  using input = new Pipe();
  using output = new Pipe();
  using errors = new Pipe();
  const helper = await spawnProcess('unshare', ['--user', ...kinds.map((kind) => `--${kind}`), '--', 'cat'], {
    stdio: [input.readEnd, output.writeEnd, errors.writeEnd],
  });
  input.closeRead();
  output.closeWrite();
  errors.closeWrite();
  const answer = output.stream();
  const said = errors.stream();
  let complaint = '';
  said.on('data', (chunk: Buffer) => {
    complaint += String(chunk).slice(0, 1_000);
  });
  const feed = input.writer();
  feed.on('error', () => {}); // it ended: the answer tells
  try {
    feed.write('\n');
    const reached = await orAborted(Promise.race([once(answer, 'data').then(() => true), helper.exited.then(() => false)]), signal);
    if (!reached) throw new CriError('unknown', `making a user namespace: ${complaint.trim() || 'unshare ended at once'}`);
    writeFileSync(`/proc/${helper.pid}/uid_map`, formatIdMap(maps.uids));
    writeFileSync(`/proc/${helper.pid}/gid_map`, formatIdMap(maps.gids));
    return await use((kind) => `/proc/${helper.pid}/ns/${kind}`);
  } catch (err) {
    signalHelper(helper.pid); // it may not be as far as to read
    throw err;
  } finally {
    feed.destroy();
    answer.destroy();
    said.destroy();
    await helper.exited;
  }
}

function signalHelper(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (err) {
    if (!isErrno(err, 'ESRCH')) throw err;
  }
}

/** Pins a namespace of another process on a file, by which it lives on. */
export function pinNamespace(namespace: string, file: string): void {
  mount(namespace, file, 'none', MS.BIND);
}

/** The daemon's start waits for it. */
const TRY_MS = 5_000;

/**
 * Why pods cannot have user namespaces; `undefined` where they can. Tried, since kernels have switches against user
 * namespaces, and each file system learns idmapped mounts by itself.
 * @param root has the layers. @param runroot has the bundles: the root user of a user namespace has to get at them.
 */
export async function userNamespaceProblem(
  { root, runroot }: { readonly root: string; readonly runroot: string },
  signal: AbortSignal,
): Promise<string | undefined> {
  const [major = 0, minor = 0] = release().split('.').map(Number);
  if (major < 5 || (major === 5 && minor < 19)) return `kernel ${release()} does not take idmapped layers for an overlay; 5.19 does`;
  const closed = [root, runroot].flatMap(pathsDownTo).find((path) => (statSync(path).mode & 0o001) === 0);
  if (closed !== undefined) return `${closed} may not be searched by others, which the root user of a pod's user namespace is`;
  const map = [{ container_id: 0, host_id: 65_536, length: 65_536 }];
  try {
    await withUserNamespace({ uids: map, gids: map }, [], withTimeout(signal, TRY_MS), (pathOf) => closeSync(cloneIdmapped(root, pathOf('user'))));
    return undefined;
  } catch (err) {
    signal.throwIfAborted();
    return describeError(err);
  }
}

/** `/`, `/a`, `/a/b` of `/a/b`. */
function pathsDownTo(path: string): string[] {
  return path === dirname(path) ? [path] : [...pathsDownTo(dirname(path)), path];
}

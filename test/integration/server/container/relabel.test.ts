import { execFileSync } from 'node:child_process';
import { linkSync, lstatSync, mkdirSync, mkdtempDisposableSync, readdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { MS, mount, readXattr, umount } from '../../../../base/sys.ts';
import { relabelMounts, relabelTree } from '../../../../server/container/relabel.ts';
import type { ResolvedMount } from '../../../../server/oci/mounts.ts';
import { mount as requested } from '../../../unit/server/oci/requests.ts';

// The kernel keeps the attribute without SELinux too; what it means there, the virtual machine shows.
const label = 'system_u:object_r:container_file_t:s0:c1,c2';
const { signal } = new AbortController();

function labelOf(path: string | Buffer): string | undefined {
  return readXattr(path, 'security.selinux')?.toString();
}

function resolved(source: string): ResolvedMount {
  return { containerPath: '/data', source, readonly: false, recursiveReadOnly: false, propagation: 'rprivate', flags: [], uidMappings: [], gidMappings: [] };
}

describe('relabelTree()', () => {
  test('labels everything in a directory, follows no symlink, and leaves alone what is right', async () => {
    using dir = mkdtempDisposableSync(join(tmpdir(), 'relabel-'));
    const at = (name: string): string => join(dir.path, name);
    mkdirSync(at('volume/a/b/c'), { recursive: true });
    mkdirSync(at('outside'));
    writeFileSync(at('outside/file'), '');
    for (let index = 0; index < 100; index += 1) writeFileSync(at(`volume/a/file${index}`), '');
    writeFileSync(at('volume/a/b/c/deep'), '');
    writeFileSync(at('volume/a/private'), '', { mode: 0o000 });
    const raw = Buffer.concat([Buffer.from(at('volume/a/')), Buffer.from([0xff, 0xfe])]);
    writeFileSync(raw, '');
    linkSync(at('volume/a/file0'), at('volume/linked'));
    symlinkSync('../outside', at('volume/to-directory'));
    symlinkSync('../outside/file', at('volume/to-file'));
    execFileSync('mkfifo', [at('volume/fifo')]);
    await relabelTree(at('volume'), label, signal);
    const inside = ['', '/a', '/a/b', '/a/b/c', '/a/b/c/deep', '/a/file99', '/a/private', '/linked', '/to-directory', '/to-file', '/fifo'];
    for (const name of inside) expect([name, labelOf(at(`volume${name}`))]).toEqual([name, `${label}\0`]);
    expect(labelOf(raw)).toBe(`${label}\0`);
    for (const name of ['outside', 'outside/file']) expect(labelOf(at(name))).not.toBe(`${label}\0`);

    const changedAt = (): number[] => inside.map((name) => lstatSync(at(`volume${name}`)).ctimeMs);
    const before = changedAt();
    await sleep(20);
    await relabelTree(at('volume'), label, signal);
    expect(changedAt()).toEqual(before);
    await relabelTree(at('volume'), `${label},c3`, signal);
    expect(labelOf(at('volume/a/b/c/deep'))).toBe(`${label},c3\0`);
  });

  test('holds no directory open for each level', async () => {
    using dir = mkdtempDisposableSync(join(tmpdir(), 'relabel-'));
    const deepest = join(dir.path, ...Array.from({ length: 500 }, () => 'd'));
    mkdirSync(deepest, { recursive: true });
    const before = readdirSync('/proc/self/fd').length;
    let most = 0;
    let ended = false;
    const done = relabelTree(dir.path, label, signal).finally(() => {
      ended = true;
    });
    while (!ended) {
      most = Math.max(most, readdirSync('/proc/self/fd').length);
      await nextTurn();
    }
    await done;
    expect(most - before).toBeLessThan(10);
    expect(labelOf(deepest)).toBe(`${label}\0`);
  });

  test('is not led out by who puts a symlink in the place of a directory meanwhile', async () => {
    using dir = mkdtempDisposableSync(join(tmpdir(), 'relabel-'));
    const at = (name: string): string => join(dir.path, name);
    for (const name of ['volume/swapped/below', 'outside/below']) mkdirSync(at(name), { recursive: true });
    writeFileSync(at('outside/below/file'), '');
    let ended = false;
    const swapping = (async () => {
      for (; !ended; await nextTurn()) {
        renameSync(at('volume/swapped'), at('volume/kept'));
        symlinkSync(at('outside'), at('volume/swapped'));
        await nextTurn();
        rmSync(at('volume/swapped'));
        renameSync(at('volume/kept'), at('volume/swapped'));
      }
    })();
    for (let round = 0; round < 300; round += 1) await relabelTree(at('volume'), `${label},c${round + 10}`, signal);
    ended = true;
    await swapping;
    for (const name of ['outside', 'outside/below', 'outside/below/file']) expect(labelOf(at(name)) ?? '').not.toContain('container_file_t');
  });

  test('labels a file', async () => {
    using dir = mkdtempDisposableSync(join(tmpdir(), 'relabel-'));
    writeFileSync(join(dir.path, 'file'), '');
    await relabelTree(join(dir.path, 'file'), label, signal);
    expect(labelOf(join(dir.path, 'file'))).toBe(`${label}\0`);
  });

  test('passes over a file system that takes no labels', async () => {
    using dir = mkdtempDisposableSync(join(tmpdir(), 'relabel-'));
    mount('ramfs', dir.path, 'ramfs');
    try {
      writeFileSync(join(dir.path, 'file'), '');
      await expect(relabelTree(dir.path, label, signal)).resolves.toBeUndefined();
      await expect(relabelTree(join(dir.path, 'file'), label, signal)).resolves.toBeUndefined();
    } finally {
      umount(dir.path);
    }
  });

  test('ends when it is told to', async () => {
    using dir = mkdtempDisposableSync(join(tmpdir(), 'relabel-'));
    await expect(relabelTree(dir.path, label, AbortSignal.abort(new Error('enough')))).rejects.toThrow('enough');
    expect(labelOf(dir.path)).not.toBe(`${label}\0`);
  });
});

describe('relabelMounts()', () => {
  const options = { label, ownRoots: ['/var/lib/berth', '/run/berth'], signal };

  test('labels only what asks for it', async () => {
    using dir = mkdtempDisposableSync(join(tmpdir(), 'relabel-'));
    const [asked, other] = [join(dir.path, 'asked'), join(dir.path, 'other')];
    for (const path of [asked, other]) mkdirSync(path);
    await relabelMounts([requested(), requested({ selinux_relabel: true })], [resolved(other), resolved(asked)], options);
    expect([labelOf(asked) === `${label}\0`, labelOf(other) === `${label}\0`]).toEqual([true, false]);
  });

  test.each(['/', '/etc', '/home', '/usr', '/usr/share/doc', '/proc/self', '/sys', '/var', '/var/lib', '/var/lib/berth', '/var/lib/berth/layers', '/run'])(
    "refuses %s, which is the node's",
    async (path) => {
      await expect(relabelMounts([requested({ selinux_relabel: true })], [resolved(path)], options)).rejects.toThrow(
        `config.mounts[0].host_path: "${path}" holds the node's own files`,
      );
    },
  );

  test('names the mount that cannot be labelled', async () => {
    using dir = mkdtempDisposableSync(join(tmpdir(), 'relabel-'));
    mount(dir.path, dir.path, '', MS.BIND);
    try {
      mount('', dir.path, '', MS.BIND | MS.REMOUNT | MS.RDONLY);
      await expect(relabelMounts([requested({ selinux_relabel: true })], [resolved(dir.path)], options)).rejects.toMatchObject({
        kind: 'failedPrecondition',
        message: expect.stringMatching(/^config\.mounts\[0\]\.selinux_relabel: cannot label .*EROFS/),
      });
      // What is right already needs no write.
      umount(dir.path);
      await relabelTree(dir.path, label, signal);
      mount(dir.path, dir.path, '', MS.BIND);
      mount('', dir.path, '', MS.BIND | MS.REMOUNT | MS.RDONLY);
      await relabelMounts([requested({ selinux_relabel: true })], [resolved(dir.path)], options);
    } finally {
      umount(dir.path);
    }
  });
});

import { closeSync, existsSync, constants as fs, openSync } from 'node:fs';
import { constants, setPriority } from 'node:os';
import { describeError, isErrno } from '#base/errors.ts';
import { chroot, fchdir, MNT, umount } from '#base/sys.ts';
import { serveJobs } from './child-serve.ts';
import { EntryListWriter } from './entry-list.ts';
import { type EntryNode, readEntryTree } from './entry-tree.ts';
import { digestFile, inflate } from './inflate.ts';
import { JobError, type SettleJob, type UnpackChildJob, type UnpackJob, type UnpackResult, type VerifyJob, type VerifyResult } from './jobs.ts';
import { settleImplied } from './lower.ts';
import { mountOverlay } from './overlay.ts';
import { TarParser } from './tar.ts';
import { Extractor } from './unpack.ts';
import { listTree, verifyTree } from './verify.ts';

/**
 * The process that unpacks layers, one at a time, jailed in the directory it unpacks into. Everything it needs is loaded
 * before the first chroot, since nothing of the machine can be reached from inside.
 */

process.umask(0);
const home = openSync('/', fs.O_RDONLY | fs.O_DIRECTORY);

/** Two of these keep a small node's cores busy: the daemon, which does little, comes first. */
const UNPACK_NICE = 10;

async function unpack(job: UnpackJob): Promise<UnpackResult> {
  setPriority(UNPACK_NICE);
  const { blob, blobDigest, dir, merge } = job;
  const fd = openSync(blob, 'r');
  // Opened before the jail is entered, which it lies outside of.
  const list = job.list === undefined ? undefined : new EntryListWriter(job.list);
  try {
    if (blobDigest !== undefined) {
      const digest = digestFile(fd);
      if (digest !== blobDigest) throw new JobError('corrupt', `blob ${blobDigest} came with digest ${digest}`);
    }
    if (merge === undefined) {
      const result = await extract(fd, dir, job, list);
      return { ...result, seal: list?.finish() };
    }
    const result = await overMount(merge, dir, () => extract(fd, merge.mountpoint, job, undefined));
    if (list !== undefined) inJail(dir, () => listTree(list));
    return { ...result, seal: list?.finish() };
  } finally {
    list?.close();
    closeSync(fd);
  }
}

async function overMount<T>({ lower, work, mountpoint: target }: NonNullable<UnpackJob['merge']>, dir: string, run: () => Promise<T>): Promise<T> {
  // What the kernel writes into the upper directory becomes the layer: nothing there may point elsewhere.
  await mountOverlay({ lower, upper: { dir, work }, target, settings: { index: 'off', redirect_dir: 'off', metacopy: 'off' }, flags: [] });
  try {
    return await run();
  } finally {
    umount(target, MNT.DETACH);
  }
}

async function extract(fd: number, jail: string, { mode, diffId, limits }: UnpackJob, list: EntryListWriter | undefined): Promise<Omit<UnpackResult, 'seal'>> {
  const extractor = new Extractor(mode, { limits, list });
  const parser = new TarParser(extractor);
  enter(jail);
  try {
    const found = await inflate(fd, (chunk) => parser.write(chunk));
    if (diffId !== undefined && found !== diffId) throw new JobError('corrupt', `layer unpacks to digest ${found}, not to ${diffId} of the image config`);
    parser.finish();
    extractor.finish();
    return { bytes: extractor.bytes, inodes: extractor.inodes, diffId: found, implied: extractor.implied };
  } finally {
    extractor.abandon();
    leave();
  }
}

function enter(jail: string): void {
  chroot(jail);
  process.chdir('/');
}

function leave(): void {
  fchdir(home);
  chroot('.');
}

function inJail<T>(jail: string, work: () => T): T {
  enter(jail);
  try {
    return work();
  } finally {
    leave();
  }
}

async function settle({ dir, implied, lower }: SettleJob): Promise<void> {
  settleImplied(dir, implied, lower);
}

/** Nothing waits for it, and a node that comes up after a power cut has other things to do. */
async function verify({ dir, list, seal, full }: VerifyJob): Promise<VerifyResult> {
  setPriority(constants.priority.PRIORITY_LOW);
  let tree: EntryNode;
  try {
    tree = readEntryTree(list, seal);
  } catch (err) {
    const message = isErrno(err, 'ENOENT') ? 'the list of its files is gone' : `its list cannot be used: ${describeError(err)}`;
    return { problem: { kind: 'damaged', message }, count: 1 };
  }
  if (!existsSync(dir)) return { problem: { kind: 'missing', message: 'its directory is gone' }, count: 1 };
  return inJail(dir, () => verifyTree(tree, { full }));
}

serveJobs((job: UnpackChildJob) => {
  switch (job.op) {
    case 'unpack':
      return unpack(job);
    case 'settle':
      return settle(job);
    case 'verify':
      return verify(job);
  }
});

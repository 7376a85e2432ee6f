import { closeSync, constants, openSync } from 'node:fs';
import { chroot, fchdir, MNT, umount } from '#base/sys.ts';
import { serveJobs } from './child-serve.ts';
import { digestFile, inflate } from './inflate.ts';
import { JobError, type SettleJob, type UnpackChildJob, type UnpackJob, type UnpackResult } from './jobs.ts';
import { settleImplied } from './lower.ts';
import { mountOverlay } from './overlay.ts';
import { TarParser } from './tar.ts';
import { Extractor } from './unpack.ts';

/**
 * The process that unpacks layers, one at a time, jailed in the directory it unpacks into. Everything it needs is loaded
 * before the first chroot, since nothing of the machine can be reached from inside.
 */

process.umask(0);
const home = openSync('/', constants.O_RDONLY | constants.O_DIRECTORY);

async function unpack({ blob, blobDigest, diffId, dir, mode, merge }: UnpackJob): Promise<UnpackResult> {
  const fd = openSync(blob, 'r');
  try {
    if (blobDigest !== undefined) {
      const digest = digestFile(fd);
      if (digest !== blobDigest) throw new JobError('corrupt', `blob ${blobDigest} came with digest ${digest}`);
    }
    if (merge === undefined) return await extract(fd, dir, mode, diffId);
    const { lower, work, mountpoint: target } = merge;
    // What the kernel writes into the upper directory becomes the layer: nothing there may point elsewhere.
    await mountOverlay({ lower, upper: { dir, work }, target, settings: { index: 'off', redirect_dir: 'off', metacopy: 'off' }, flags: [] });
    try {
      return await extract(fd, target, mode, diffId);
    } finally {
      umount(target, MNT.DETACH);
    }
  } finally {
    closeSync(fd);
  }
}

async function extract(fd: number, jail: string, mode: UnpackJob['mode'], diffId: UnpackJob['diffId']): Promise<UnpackResult> {
  const extractor = new Extractor(mode);
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

async function settle({ dir, implied, lower }: SettleJob): Promise<void> {
  settleImplied(dir, implied, lower);
}

serveJobs((job: UnpackChildJob) => (job.op === 'unpack' ? unpack(job) : settle(job)));

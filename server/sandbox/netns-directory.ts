import { existsSync, mkdirSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Log } from '#base/log.ts';
import { MNT, MS, mount, SysError, umount } from '#base/sys.ts';
import { mountOf, parseMountInfo } from '../oci/mount-info.ts';

/** Says, below runroot, that the mount on the directory is ours to take away. */
const MARKER = 'netns-shared';

/**
 * Sees to it that namespaces pinned in `<namespacesDir>/netns` appear in the mount namespaces of CNI daemons too, which
 * run in containers that have the directory mounted: its mount has to be shared. Where it is not, the directory is mounted
 * on itself, as ip-netns(8) does. Disposing takes that back, unless something is pinned.
 */
export function shareNetnsDirectory({
  namespacesDir,
  runroot,
  log,
}: {
  readonly namespacesDir: string;
  readonly runroot: string;
  readonly log: Log;
}): Disposable {
  const wanted = join(namespacesDir, 'netns');
  mkdirSync(wanted, { recursive: true, mode: 0o755 });
  const path = realpathSync(wanted);
  const marker = join(runroot, MARKER);
  try {
    const found = mountOf(parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8')), path);
    if (found?.shared !== true) {
      if (found?.path !== path) {
        writeFileSync(marker, path);
        mount(path, path, 'none', MS.BIND | MS.REC);
      }
      mount('none', path, 'none', MS.SHARED | MS.REC);
    }
  } catch (err) {
    if (!(err instanceof SysError)) throw err;
    log.warn({ path, err }, 'Could not share the directory of network namespaces: CNI daemons in containers may not see them');
  }
  return {
    [Symbol.dispose]: () => {
      if (!existsSync(marker) || readdirSync(path).length > 0) return;
      // Other mounts of that place are not ours.
      if (parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8')).some((mounted) => mounted.path === path)) umount(path, MNT.DETACH);
      rmSync(marker);
    },
  };
}

/** One line of /proc/self/mountinfo, as far as propagation goes. */
export interface MountPoint {
  readonly path: string;
  readonly shared: boolean;
  readonly slave: boolean;
}

/** Source: proc_pid_mountinfo(5). */
export function parseMountInfo(text: string): readonly MountPoint[] {
  return text.split('\n').flatMap((line) => {
    const fields = line.split(' ');
    const path = fields[4];
    if (path === undefined) return [];
    const optional = fields.slice(6, fields.indexOf('-'));
    return [
      {
        path: unescapeOctal(path),
        shared: optional.some((field) => field.startsWith('shared:')),
        slave: optional.some((field) => field.startsWith('master:')),
      },
    ];
  });
}

/** The mount that a real path lies on: the longest mount point above it, and of several at one place the last, which is on top. */
export function mountOf(mounts: readonly MountPoint[], path: string): MountPoint | undefined {
  let best: MountPoint | undefined;
  for (const mount of mounts) {
    if (isWithin(path, mount.path) && (best === undefined || mount.path.length >= best.path.length)) best = mount;
  }
  return best;
}

/** True for `directory` itself and everything below it. */
export function isWithin(path: string, directory: string): boolean {
  return path === directory || path.startsWith(directory.endsWith('/') ? directory : `${directory}/`);
}

/** The kernel writes blank, tab, newline and backslash as three octal digits, byte by byte. */
function unescapeOctal(path: string): string {
  return path.replace(/\\([0-7]{3})/g, (_escape, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}

import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '#base/errors.ts';
import { formatLabel, parseLabel, type SelinuxLabel, type SelinuxPolicy } from './selinux-label.ts';

/** What most policies have; for one without an `lxc_contexts`. */
const FALLBACK = { process: 'system_u:system_r:container_t:s0', file: 'system_u:object_r:container_file_t:s0' } as const;

const READONLY = 'system_u:object_r:container_ro_file_t:s0';

/** The "super privileged container" of the policies that have one. */
const UNCONFINED_TYPE = 'spc_t';

/** Longer than any label: the kernel takes a page. */
const PAGE = 4096;

/**
 * What the loaded policy has for containers: the labels of `lxc_contexts`, as podman and CRI-O take them, if the kernel
 * knows them. Source: selinux_lxc_contexts_path(3), selinux_config(5).
 * @param root where /etc/selinux is looked for.
 * @returns a text that says what is missing, where the policy has nothing for containers.
 */
export async function readSelinuxPolicy(root = '/', canonical: SelinuxPolicy['canonical'] = canonicalLabel): Promise<SelinuxPolicy | string> {
  const name = /^\s*SELINUXTYPE\s*=\s*(\S+)/m.exec(await readText(join(root, 'etc/selinux/config')))?.[1] ?? 'targeted';
  const path = join(root, 'etc/selinux', name, 'contexts/lxc_contexts');
  const text = await readText(path);
  const labels: { process?: SelinuxLabel; file?: SelinuxLabel } = {};
  for (const key of ['process', 'file'] as const) {
    const written = writtenLabel(text, key);
    const label = written ?? FALLBACK[key];
    const known = parseLabel(canonical(label) ?? '');
    if (known === undefined) return `the SELinux policy ${name} does not know ${label}${written === undefined ? '' : `, which is the ${key} in ${path}`}`;
    labels[key] = known;
  }
  const { process, file } = labels;
  if (process === undefined || file === undefined) return `the SELinux policy ${name} has no labels for containers`;
  const readonlyFile = parseLabel(canonical(writtenLabel(text, 'ro_file') ?? READONLY) ?? '') ?? file;
  const hasUnconfined = canonical(formatLabel({ ...process, type: UNCONFINED_TYPE })) !== undefined;
  return { process, file, readonlyFile, canonical, ...(hasUnconfined ? { unconfinedType: UNCONFINED_TYPE } : {}) };
}

/** A line of `lxc_contexts`: `key = "label"`. */
function writtenLabel(text: string, key: string): string | undefined {
  return new RegExp(`^\\s*${key}\\s*=\\s*"?([^"\\s]+)`, 'm').exec(text)?.[1];
}

/** Asks the kernel. Microseconds: nothing is read from a disk. Source: security_canonicalize_context(3). */
export function canonicalLabel(label: string): string | undefined {
  const fd = openSync('/sys/fs/selinux/context', 'r+');
  try {
    writeSync(fd, `${label}\0`);
    const answer = Buffer.alloc(PAGE);
    return answer.toString('utf8', 0, readSync(fd, answer)).replace(/\0.*$/s, '');
  } catch (err) {
    if (isErrno(err, 'EINVAL', 'ERANGE')) return undefined;
    throw err;
  } finally {
    closeSync(fd);
  }
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR')) return '';
    throw err;
  }
}

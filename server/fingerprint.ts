import { createHash } from 'node:crypto';

/**
 * A hash that is equal for equal CRI messages. Keys are sorted, since protobuf maps arrive in any order; bytes count as
 * bytes. `omit` leaves values out by their path, such as `mounts.3.host_path`.
 */
export function fingerprint(message: unknown, omit: ReadonlySet<string> = new Set()): string {
  return createHash('sha256')
    .update(JSON.stringify(sorted(message, '', omit)))
    .digest('base64url');
}

function sorted(value: unknown, path: string, omit: ReadonlySet<string>): unknown {
  if (omit.has(path)) return null;
  if (Buffer.isBuffer(value)) return ['bytes', value.toString('base64')];
  if (Array.isArray(value)) return value.map((item, index) => sorted(item, `${path}.${index}`.replace(/^\./, ''), omit));
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  return entries.map(([key, item]) => [key, sorted(item, path === '' ? key : `${path}.${key}`, omit)]);
}

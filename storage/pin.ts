import { CriError } from '#base/errors.ts';
import { parseReference, repositoryName } from './reference.ts';

/**
 * True when a name (`registry/repository:tag` or `registry/repository@digest`) matches one of the patterns of
 * `pinned_images`: the whole name, written as short as `crictl pull` takes it, `prefix*`, or `*keyword*`. A lone `*` is
 * every image.
 */
export function matchesPin(name: string, patterns: readonly string[]): boolean {
  return patterns.some((pattern) => matches(name, pattern.trim()));
}

function matches(name: string, pattern: string): boolean {
  if (pattern === '') return false;
  const endsOpen = pattern.endsWith('*');
  if (endsOpen && pattern.startsWith('*') && pattern.length > 1) return name.includes(pattern.slice(1, -1));
  if (endsOpen) return name.startsWith(pattern.slice(0, -1));
  return name === pattern || name === wholeName(pattern);
}

/** `busybox` is `docker.io/library/busybox:latest` in the store; of a name with tag and digest the digest counts. */
function wholeName(text: string): string | undefined {
  try {
    const reference = parseReference(text);
    return `${repositoryName(reference)}${reference.digest === undefined ? `:${reference.tag}` : `@${reference.digest}`}`;
  } catch (err) {
    if (err instanceof CriError) return undefined; // the pattern of no image
    throw err;
  }
}

/**
 * True when a name matches one of the patterns of `pinned_images`: the whole name, `prefix*`, or
 * `*keyword*`.
 */
export function matchesPin(name: string, patterns: readonly string[]): boolean {
  return patterns.some((pattern) => matches(name, pattern.trim()));
}

function matches(name: string, pattern: string): boolean {
  if (pattern === '') return false;
  const endsOpen = pattern.endsWith('*');
  if (endsOpen && pattern.startsWith('*') && pattern.length > 1) return name.includes(pattern.slice(1, -1));
  if (endsOpen) return name.startsWith(pattern.slice(0, -1));
  return name === pattern;
}

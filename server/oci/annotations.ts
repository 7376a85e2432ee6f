/**
 * Annotations of a pod or a container that its handler lets through to the OCI runtime, such as `io.katacontainers.*` or
 * `run.oci.*`. `allowed`: whole names, or beginnings that end in `*`.
 *
 * A property of the container's systemd unit is never a pod's to set, whatever is allowed: it may name a command that systemd
 * runs on the node (CVE-2024-3154).
 */
export function allowedAnnotations(annotations: Readonly<Record<string, string>>, allowed: readonly string[]): Readonly<Record<string, string>> {
  if (allowed.length === 0) return {};
  return Object.fromEntries(
    Object.entries(annotations).filter(([name]) => !name.startsWith('org.systemd.') && allowed.some((pattern) => matches(name, pattern))),
  );
}

function matches(name: string, pattern: string): boolean {
  return pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : name === pattern;
}

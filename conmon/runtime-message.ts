/**
 * What an OCI runtime said on stderr, as one line for a person. runc and its kin write logrus lines, as text
 * (`time="…" level=error msg="…"`) or as JSON; of those only the errors are kept, without their dress. crun writes plain text.
 */
export function runtimeMessage(stderr: string): string {
  const lines = stderr.split('\n').flatMap((line) => line.trim() || []);
  const records = lines.map((line) => parseText(line) ?? parseJson(line));
  const errors = records.flatMap((record) => (record !== undefined && /^(error|fatal|panic)$/.test(record.level) ? record.message : []));
  if (errors.length > 0) return [...new Set(errors)].join('; ');
  return lines.map((line, index) => records[index]?.message ?? line).join('; ');
}

interface LogRecord {
  readonly level: string;
  readonly message: string;
}

function parseText(line: string): LogRecord | undefined {
  const match = /(?:^|\s)level=(\w+) msg=(?:"((?:[^"\\]|\\.)*)"?|(\S+))/.exec(line);
  if (match?.[1] === undefined) return undefined;
  const message = match[3] ?? (match[2] ?? '').replace(/\\(.)/g, (_all, char: string) => (char === 'n' ? ' ' : char === 't' ? ' ' : char));
  return { level: match[1], message };
}

function parseJson(line: string): LogRecord | undefined {
  if (!line.startsWith('{')) return undefined;
  try {
    const { level, msg } = JSON.parse(line) as { level?: unknown; msg?: unknown };
    return typeof level === 'string' && typeof msg === 'string' ? { level, message: msg } : undefined;
  } catch {
    return undefined;
  }
}

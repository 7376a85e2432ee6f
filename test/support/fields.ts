import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { pathToFileURL } from 'node:url';

/**
 * Declares, between a test's name and its function, the fields of the CRI that it proves on a real container:
 *
 *     test('sets the hostname', proves('PodSandboxConfig.hostname'), async () => { … });
 *
 * It does nothing when the test runs: `docs/fields.md` is made of the test files' text.
 */
export function proves(..._fields: readonly string[]): Record<string, never> {
  return {};
}

const PROJECT = join(import.meta.dirname, '../..');
export const TABLE = join(PROJECT, 'docs/fields.md');

/** What a kubelet says of a pod and of a container; everything that hangs on them has to be proven. */
const ROOTS = ['PodSandboxConfig', 'ContainerConfig'];
/** Not for this platform: refused as a whole, which a test of its own shows. */
const LEFT_OUT = ['WindowsPodSandboxConfig', 'WindowsContainerConfig'];

interface Messages {
  readonly [name: string]: { readonly fields?: Readonly<Record<string, { readonly type: string; readonly id: number; readonly keyType?: string }>> };
}

/** `Message.field` of all messages that hang on the roots, in the order of the API. */
export function criFields(): readonly string[] {
  const json = JSON.parse(readFileSync(join(PROJECT, 'proto/cri.json'), 'utf8')) as { nested: { runtime: { nested: { v1: { nested: Messages } } } } };
  const messages = json.nested.runtime.nested.v1.nested;
  const found: string[] = [];
  const pending = [...ROOTS];
  const seen = new Set(pending);
  for (let name = pending.shift(); name !== undefined; name = pending.shift()) {
    const below: string[] = [];
    for (const [field, { type }] of Object.entries(messages[name]?.fields ?? {})) {
      found.push(`${name}.${field}`);
      const isMessage = messages[type]?.fields !== undefined;
      if (!isMessage || seen.has(type) || LEFT_OUT.includes(type)) continue;
      seen.add(type);
      below.push(type);
    }
    pending.unshift(...below);
  }
  return found;
}

/** A test that declares fields. */
export interface Proof {
  /** Relative to the project. */
  readonly file: string;
  readonly test: string;
  readonly fields: readonly string[];
}

/**
 * Of the tests, and of the parts of the virtual machine.
 * @throws {Error} for a declaration that does not stand right after a test's name, where it would be overlooked.
 */
export function findProofs(directories: readonly string[] = ['test/integration', 'test/e2e', 'test/vm']): readonly Proof[] {
  const proofsIn = (file: string): readonly Proof[] => (file.endsWith('.sh') ? vmProofsOf : proofsOf)(file, readFileSync(join(PROJECT, file), 'utf8'));
  return directories.flatMap((directory) =>
    readdirSync(join(PROJECT, directory), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.test.ts') || (directory === 'test/vm' && name.endsWith('.sh')))
      .sort()
      .flatMap((name) => proofsIn(join(directory, name))),
  );
}

const DECLARATION = /\btest\b[^\n]*?\(\s*(['"`])((?:\\.|(?!\1).)*)\1,\s*proves\(([^)]*)\)/g;

export function proofsOf(file: string, text: string): readonly Proof[] {
  const proofs = [...text.matchAll(DECLARATION)].map(([, , test = '', list = '']) => ({
    file,
    test: test.replaceAll(/\\(.)/g, '$1'),
    fields: [...list.matchAll(/['"]([^'"]+)['"]/g)].map(([, field = '']) => field),
  }));
  const declared = text.matchAll(/\bproves\(/g).toArray().length;
  if (declared !== proofs.length) throw new Error(`${file}: ${declared} proves(…), of which ${proofs.length} stand right after a test's name`);
  return proofs;
}

/** `proves FIELD…` in the first line of a part of test/vm: the part is the test. @throws {Error} as `findProofs`. */
export function vmProofsOf(file: string, text: string): readonly Proof[] {
  const joined = text.replaceAll(/\\\n\s*/g, '');
  const proofs = [...joined.matchAll(/^part_(\w+)\(\) \{\n {2}proves (.*)$/gm)].map(([, part = '', list = '']) => ({
    file,
    test: `virtual machine: ${part}`,
    fields: list.split(' ').filter((field) => field !== ''),
  }));
  const declared = joined.matchAll(/^\s*proves /gm).toArray().length;
  if (declared !== proofs.length) throw new Error(`${file}: ${declared} lines with proves, of which ${proofs.length} are the first of a part`);
  return proofs;
}

/** The page: a table for each message, a row for each field, with the tests that prove it. */
export function formatTable(fields: readonly string[], proofs: readonly Proof[]): string {
  const lines = [
    '# Every field of a pod and of a container, and the test that proves it',
    '',
    'Made by `npm run fields` from the tests, which declare what they prove with `proves(…)`. A field is proven by looking into',
    'a real container, or by the error that names it where it is refused. The Windows messages are refused as a whole.',
  ];
  let message = '';
  for (const field of fields) {
    const [owner = '', name = ''] = field.split('.');
    if (owner !== message) lines.push('', `## ${owner}`, '', '| field | proven by |', '|---|---|');
    message = owner;
    const cells = proofs.filter((proof) => proof.fields.includes(field)).map(({ file, test }) => `[${escapeCell(test)}](../${file})`);
    lines.push(`| \`${name}\` | ${cells.length === 0 ? '**no test yet**' : cells.join('<br>')} |`);
  }
  return `${lines.join('\n')}\n`;
}

function escapeCell(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('[', '\\[').replaceAll(']', '\\]');
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const { writeFileSync } = await import('node:fs');
  writeFileSync(TABLE, formatTable(criFields(), findProofs()));
  console.log(`wrote ${relative(process.cwd(), TABLE)}`);
}

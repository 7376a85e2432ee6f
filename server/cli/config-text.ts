import { encodeIni } from '../config/ini.ts';
import { HANDLER_SECTION } from '../config/keys.ts';
import type { EffectiveValue } from '../config.ts';

/** The configuration as INI, each line with where its value comes from. Reads back as the same configuration. */
export function formatEffective(values: readonly EffectiveValue[]): string {
  return bySection(values)
    .map(({ section, values }) => [`[${section}]`, ...values.flatMap((value) => assignments(value).map((line) => `${line}  # ${value.source}`)), ''].join('\n'))
    .join('\n');
}

const PREAMBLE = `# Berth's configuration. Every key stands here with its default, commented out.
# Files in the directory of this name with .d are read after it, in the order of
# their names; the last value of a key counts. Print what is in effect, and where
# it comes from, with: berth config
#
# Lists are written "key = a, b", or one item a line as "key[] = a", which takes
# the item as it is, commas and all. A list in a later file replaces an earlier
# one. Times: 240s, 4m, 1h30m, or plain seconds. Sizes: 16MiB, or plain bytes. A
# value with # or ; in it is put into double quotes.
`;

const HANDLERS = `# OCI runtimes: one section for each handler that a RuntimeClass can name. crun
# and runc need none.
`;

/** The sample file: every key with its meaning and default, commented out. */
export function formatSample(values: readonly EffectiveValue[]): string {
  const text = [PREAMBLE];
  let handlers = false;
  for (const { section, values: own } of bySection(values)) {
    const handler = section.startsWith(HANDLER_SECTION);
    if (handler && handlers) continue;
    if (handler) text.push(HANDLERS);
    handlers ||= handler;
    const keys = own.map((value) => [`# ${value.doc}`, ...assignments(value).map((line) => `#${line}`)].join('\n'));
    text.push(`${handler ? '#' : ''}[${section}]\n${keys.join('\n')}\n`);
  }
  return text.join('\n');
}

function assignments({ key, items, list }: EffectiveValue): string[] {
  const plain = items.every((item) => encodeIni(item) === item && !(list && /,|^\s*$/.test(item)));
  if (!list || items.length === 0 || plain) {
    const value = list ? items.join(', ') : encodeIni(items[0] ?? '');
    return [`${key} = ${value}`.trimEnd()];
  }
  return items.map((item) => `${key}[] = ${encodeIni(item)}`);
}

function bySection(values: readonly EffectiveValue[]): { readonly section: string; readonly values: readonly EffectiveValue[] }[] {
  return [...Map.groupBy(values, ({ section }) => section)].map(([section, own]) => ({ section, values: own }));
}

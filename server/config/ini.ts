import { unsafe } from 'ini';

/** One `key = value` line of a configuration file. */
export interface IniEntry {
  readonly section: string;
  readonly key: string;
  /** Written `key[] = value`: one more item of a list, taken whole. */
  readonly append: boolean;
  readonly value: string;
  readonly line: number;
}

export interface IniSection {
  readonly name: string;
  readonly line: number;
}

export interface IniText {
  readonly sections: readonly IniSection[];
  readonly entries: readonly IniEntry[];
  /** Lines that are neither. The ini package skips them, which would hide a typing error. */
  readonly broken: readonly { readonly line: number; readonly why: string }[];
}

const HEADER = /^\[([^\]]*)\]\s*(?:[;#].*)?$/;
const ASSIGNMENT = /^([^=]+?)\s*(\[\])?\s*=(.*)$/;

/**
 * Reads an INI text line by line, since the ini package's own parser gives no line numbers. Values are decoded by that
 * package: `;` and `#` begin a comment unless quoted or escaped by a backslash, and quotes keep blanks.
 */
export function scanIni(text: string): IniText {
  const sections: IniSection[] = [];
  const entries: IniEntry[] = [];
  const broken: { line: number; why: string }[] = [];
  let section: string | undefined;
  for (const [index, raw] of text
    .replace(/^\uFEFF/, '')
    .split(/\r?\n/)
    .entries()) {
    const line = index + 1;
    const content = raw.trim();
    if (content === '' || content.startsWith('#') || content.startsWith(';')) continue;
    const header = HEADER.exec(content);
    if (header !== null) {
      section = (header[1] ?? '').trim();
      sections.push({ name: section, line });
      continue;
    }
    const assignment = ASSIGNMENT.exec(content);
    if (assignment === null) broken.push({ line, why: 'neither "[section]" nor "key = value"' });
    else if (section === undefined) broken.push({ line, why: `${assignment[1]} stands before any [section]` });
    else entries.push({ section, key: assignment[1] ?? '', append: assignment[2] !== undefined, value: decode(assignment[3] ?? ''), line });
  }
  return { sections, entries, broken };
}

const QUOTED_WITH_COMMENT = /^("(?:[^"\\]|\\.)*"|'[^']*')\s*[;#].*$/;

/**
 * The ini package knows no comment after a quoted value, and reads JSON inside single quotes, so that `'5'` would come
 * back as a number.
 */
function decode(raw: string): string {
  const content = raw.trim().replace(QUOTED_WITH_COMMENT, '$1');
  const value: unknown = unsafe(content);
  return typeof value === 'string' ? value : content.slice(1, -1);
}

/** A value as it must be written to be read back the same. */
export function encodeIni(value: string): string {
  return /^["'[]|[;#\\]|^\s|\s$/.test(value) ? JSON.stringify(value) : value;
}

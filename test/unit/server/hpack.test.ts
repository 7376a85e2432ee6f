import fc from 'fast-check';
import { expect, test } from 'vitest';
import { cleanAuthority } from '../../../server/hpack.ts';

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex');
const plain = (text: string): string => Buffer.concat([Buffer.of(text.length), Buffer.from(text)]).toString('hex');

/** "/run/containerd/x.sock" as golang.org/x/net/http2/hpack writes it, length included. */
const goPath = '90 62cb6a6087a9233545b2463cae8393af';

test.each([
  ['a literal with incremental indexing', `83 86 41 ${plain('/run/x.sock')} 84`, `83 86 41 ${plain('-run-x.sock')} 84`],
  ['a literal without indexing', `83 01 ${plain('/run/x.sock')}`, `83 01 ${plain('-run-x.sock')}`],
  ['a literal that is never to be indexed', `83 11 ${plain('/run/x.sock')}`, `83 11 ${plain('-run-x.sock')}`],
  ['a literal with its name spelt out', `40 ${plain(':authority')} ${plain('/a')} 83`, `40 ${plain(':authority')} ${plain('-a')} 83`],
  ["a name in Huffman's code", `40 88 b83b5339ec327d7f ${plain('/a')}`, `40 88 b83b5339ec327d7f ${plain('-a')}`],
  ["a value in Huffman's code", `41 ${goPath} 83`, `41 ${plain('-run-containerd-x.sock')} 83`],
  ['two of them', `41 ${plain('/a')} 83 01 ${plain('?b')}`, `41 ${plain('-a')} 83 01 ${plain('-b')}`],
])('cleanAuthority() replaces %s, length kept', (_name, block, clean) => {
  expect(cleanAuthority(hex(block)).toString('hex')).toBe(hex(clean).toString('hex'));
});

test.each([
  ['an acceptable value', `83 41 ${plain('localhost')}`],
  ["an acceptable value in Huffman's code", '8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff'], // RFC 7541, C.4.1
  ['an indexed field', '83 86 c0 bf'],
  ['a change of table size', '3f e1 1f 83'],
  ['the same value under another name', `44 ${plain('/run/x.sock')} 40 ${plain(':authorities')} ${plain('/x')}`],
  ['no field at all', ''],
])('cleanAuthority() leaves %s alone', (_name, block) => {
  const bytes = hex(block);
  expect(cleanAuthority(bytes)).toBe(bytes);
});

test('cleanAuthority() writes lengths of more than one octet', () => {
  const path = `/${'a'.repeat(400)}`;
  const literal = Buffer.concat([hex('41 7f 92 02'), Buffer.from(path)]);
  expect(cleanAuthority(literal)).toEqual(Buffer.concat([hex('41 7f 92 02'), Buffer.from(path.replace('/', '-'))]));
});

test.each([
  ['a text longer than the block', '41 05 2f 61'],
  ['an endless integer', `41 7f ${'ff'.repeat(8)}`],
  ["Huffman's code with zeros at the end", '41 81 60'],
  ["Huffman's code with its end symbol", '41 84 ffffffff'],
  ['nothing after the index', '41'],
])('cleanAuthority() gives a malformed block back: %s', (_name, block) => {
  const bytes = hex(block);
  expect(cleanAuthority(bytes)).toBe(bytes);
});

test('cleanAuthority() takes any bytes', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      expect(() => cleanAuthority(Buffer.from(bytes))).not.toThrow();
    }),
  );
});

test('cleanAuthority() is done after one turn', () => {
  fc.assert(
    fc.property(fc.string({ maxLength: 300 }), fc.constantFrom('41', '01', '11'), (text, kind) => {
      const value = Buffer.from(text.replaceAll(/[^\x20-\x7e]/g, '/'), 'latin1');
      if (value.length >= 127) return;
      const once = cleanAuthority(Buffer.concat([hex(kind), Buffer.of(value.length), value, hex('83')]));
      expect(once.length).toBe(value.length + 3);
      expect(cleanAuthority(once)).toBe(once);
    }),
  );
});

import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { criFields, findProofs, formatTable, proofsOf, TABLE, vmProofsOf } from '../../support/fields.ts';

test('docs/fields.md is what `npm run fields` makes of the tests', () => {
  expect(readFileSync(TABLE, 'utf8')).toBe(formatTable(criFields(), findProofs()));
});

test('no test declares a field that the API does not have', () => {
  const known = new Set(criFields());
  expect(findProofs().flatMap(({ file, fields }) => fields.filter((field) => !known.has(field)).map((field) => `${file}: ${field}`))).toEqual([]);
});

test('no field is without a test', () => {
  const proven = new Set(findProofs().flatMap(({ fields }) => fields));
  expect(criFields().filter((field) => !proven.has(field))).toEqual([]);
});

test('the fields are those of the pod and container config, whatever hangs on them', () => {
  const fields = criFields();
  expect(fields).toContain('PodSandboxConfig.hostname');
  expect(fields).toContain('IDMapping.host_id');
  expect(fields).toContain('CDIDevice.name');
  expect(fields.filter((field) => field.startsWith('Windows'))).toEqual([]);
});

test('a declaration that would be overlooked is an error', () => {
  expect(proofsOf('a.test.ts', `test('has a \\'name\\'', proves('A.b', "C.d"), async () => {})`)).toEqual([
    { file: 'a.test.ts', test: "has a 'name'", fields: ['A.b', 'C.d'] },
  ]);
  expect(proofsOf('a.test.ts', `test.skipIf(cgroupV2)(\n  'wrapped',\n  proves('A.b'),`)).toHaveLength(1);
  expect(() => proofsOf('a.test.ts', `const fields = proves('A.b');`)).toThrow('1 proves');
});

test('a part of the virtual machine declares what it proves in its first line', () => {
  const script = 'part_one() {\n  proves A.b C.d \\\n    E.f\n  check x\n}\npart_two() {\n  check y\n}\n';
  expect(vmProofsOf('a.sh', script)).toEqual([{ file: 'a.sh', test: 'virtual machine: one', fields: ['A.b', 'C.d', 'E.f'] }]);
  expect(() => vmProofsOf('a.sh', 'part_one() {\n  check x\n  proves A.b\n}\n')).toThrow('1 lines with proves, of which 0');
});

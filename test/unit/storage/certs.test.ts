import { mkdir, mkdtempDisposable, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { loadHostCertificates } from '../../../storage/certs.ts';

async function write(directory: string, files: Record<string, string>): Promise<void> {
  await mkdir(directory, { recursive: true });
  for (const [name, text] of Object.entries(files)) await writeFile(join(directory, name), text);
}

test('loadHostCertificates() reads authorities and pairs of the first directory that has the host', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-certs-'));
  const [first, second] = [join(dir.path, 'a'), join(dir.path, 'b')];
  expect(loadHostCertificates([first, second], 'r.com:5000')).toEqual({ ca: [], client: [], version: '' });
  await write(join(second, 'r.com:5000'), { 'ca.crt': 'CA', 'z.crt': 'Z', 'me.cert': 'CERT', 'me.key': 'KEY', 'notes.txt': 'x' });
  expect(loadHostCertificates([first, second], 'r.com:5000')).toMatchObject({ ca: ['CA', 'Z'], client: [{ cert: 'CERT', key: 'KEY' }] });
  expect(loadHostCertificates([first, second], 'r.com')).toMatchObject({ ca: [], client: [] });
  await write(join(first, 'r.com:5000'), { 'other.crt': 'OTHER' });
  expect(loadHostCertificates([first, second], 'r.com:5000')).toMatchObject({ ca: ['OTHER'], client: [] });
});

test('loadHostCertificates() tells when a file has changed', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-certs-'));
  await write(join(dir.path, 'r.com'), { 'ca.crt': 'CA' });
  const before = loadHostCertificates([dir.path], 'r.com').version;
  expect(loadHostCertificates([dir.path], 'r.com').version).toBe(before);
  await utimes(join(dir.path, 'r.com', 'ca.crt'), 1, 1);
  expect(loadHostCertificates([dir.path], 'r.com').version).not.toBe(before);
});

test.each([
  ['a certificate without its key', { 'me.cert': 'CERT' }, /client certificate .*me\.cert has no me\.key/],
  ['a key without its certificate', { 'me.key': 'KEY' }, /key .*me\.key has no certificate/],
])('loadHostCertificates() refuses %s', async (_what, files, why) => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-certs-'));
  await write(join(dir.path, 'r.com'), files);
  expect(() => loadHostCertificates([dir.path], 'r.com')).toThrow(why);
});

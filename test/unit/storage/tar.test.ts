import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { JobError } from '../../../storage/jobs.ts';
import { type TarEntry, TarParser } from '../../../storage/tar.ts';
import { makeTar, type TestEntry } from '../../fixtures/storage/tar.ts';

interface Read extends Omit<TarEntry, 'xattrs'> {
  content: string;
  xattrs: Record<string, string>;
}

function readTar(tar: Buffer, cuts: readonly number[] = []): Read[] {
  const read: Read[] = [];
  let chunks: Buffer[] = [];
  const parser = new TarParser({
    entry: (entry) => {
      chunks = [];
      read.push({ ...entry, content: '', xattrs: Object.fromEntries([...entry.xattrs].map(([key, value]) => [key, value.toString('latin1')])) });
    },
    data: (chunk) => chunks.push(Buffer.from(chunk)),
    end: () => {
      const last = read.at(-1);
      if (last !== undefined) last.content = Buffer.concat(chunks).toString('latin1');
    },
  });
  const edges = [0, ...cuts.map((cut) => cut % (tar.length + 1)).sort((a, b) => a - b), tar.length];
  for (const [index, edge] of edges.slice(1).entries()) parser.write(tar.subarray(edges[index], edge));
  parser.finish();
  return read;
}

const sample: TestEntry[] = [
  { name: 'etc/', mode: 0o700, uid: 3, gid: 4 },
  { name: 'etc/passwd', content: 'root:x\n'.repeat(200), mtime: 42 },
  { name: 'bin/su', content: 'x', mode: 0o4755 },
  { name: 'lib', type: '2', link: 'usr/lib' },
  { name: 'bin/sudo', type: '1', link: 'bin/su' },
  { name: 'dev/null', type: '3', major: 1, minor: 3 },
  { name: 'dev/sda', type: '4', major: 8, minor: 0 },
  { name: 'fifo', type: '6' },
  {
    name: 'x',
    content: 'long',
    pax: {
      path: `${'deep/'.repeat(60)}x`,
      mtime: '1.5',
      uid: '3000000',
      'SCHILY.xattr.user.a': 'v',
      'SCHILY.xattr.security.capability': Buffer.from([1, 0, 255]),
    },
  },
  { name: 'caf\xe9', content: '' },
];

describe('TarParser', () => {
  test('reads every type with its attributes', () => {
    const read = readTar(makeTar(sample));
    expect(read.map(({ name, type }) => [name.split('/').slice(-3).join('/'), type])).toEqual([
      ['etc/', 'directory'],
      ['etc/passwd', 'file'],
      ['bin/su', 'file'],
      ['lib', 'symlink'],
      ['bin/sudo', 'hardlink'],
      ['dev/null', 'character'],
      ['dev/sda', 'block'],
      ['fifo', 'fifo'],
      ['deep/deep/x', 'file'],
      ['caf\xe9', 'file'],
    ]);
    expect(read[0]).toMatchObject({ mode: 0o700, uid: 3, gid: 4, size: 0 });
    expect(read[1]).toMatchObject({ mtime: 42, content: 'root:x\n'.repeat(200) });
    expect(read[2]).toMatchObject({ mode: 0o4755 });
    expect(read[5]).toMatchObject({ major: 1, minor: 3 });
    expect(read[8]).toMatchObject({ name: `${'deep/'.repeat(60)}x`, uid: 3_000_000, mtime: 1.5, content: 'long' });
    expect(read[8]?.xattrs).toEqual({ 'user.a': 'v', 'security.capability': '\x01\x00\xff' });
    expect(read[9]?.xattrs).toEqual({});
  });

  test('reads the same however the bytes are cut', () => {
    const tar = makeTar(sample);
    const whole = readTar(tar);
    fc.assert(
      fc.property(fc.array(fc.nat(tar.length), { maxLength: 60 }), (cuts) => {
        expect(readTar(tar, cuts)).toEqual(whole);
      }),
    );
    expect(
      readTar(
        tar,
        Array.from({ length: tar.length }, (_, at) => at),
      ),
    ).toEqual(whole);
  });

  test('reads GNU long names, base-256 numbers and directories of old tars', () => {
    const tar = makeTar([
      { name: '././@LongLink', type: 'L', content: `${'n'.repeat(150)}\0` },
      { name: '././@LongLink', type: 'K', content: `${'l'.repeat(150)}\0` },
      { name: 'short', type: '2', link: 'short' },
      { name: 'old/', type: '0' },
    ]);
    const [link, old] = readTar(tar);
    expect(link).toMatchObject({ name: 'n'.repeat(150), link: 'l'.repeat(150) });
    expect(old).toMatchObject({ name: 'old/', type: 'directory' });
  });

  test('ignores what is behind the end mark, and does without one', () => {
    const tar = makeTar([{ name: 'a', content: 'b' }]);
    expect(readTar(Buffer.concat([tar, Buffer.alloc(700, 'x')]))).toHaveLength(1);
    expect(readTar(tar.subarray(0, -1024))).toHaveLength(1);
    expect(readTar(Buffer.alloc(0))).toEqual([]);
  });

  test.each([
    ['a sparse file of GNU', makeTar([{ name: 's', type: 'S' }]), '"s" is a sparse file'],
    ['a sparse file of pax', makeTar([{ name: 's', pax: { 'GNU.sparse.major': '1' } }]), '"s" is a sparse file'],
    ['an unknown type', makeTar([{ name: 's', type: 'Z' }]), 'unknown type'],
    ['a cut entry', makeTar([{ name: 'a', content: 'b'.repeat(600) }]).subarray(0, 1000), 'ends within an entry'],
    ['a cut header', makeTar([{ name: 'a' }]).subarray(0, 100), 'ends within an entry'],
    ['a wrong checksum', Buffer.from(makeTar([{ name: 'a' }])).fill('b', 0, 1), 'wrong checksum'],
    ['a broken pax header', makeTar([{ name: 'p', type: 'x', content: '99 a=b\n' }, { name: 'a' }]), 'broken pax header'],
    ['a negative size', makeTar([{ name: 'a', pax: { size: '-1' } }]), 'with the size -1'],
    ['a NUL in a name', makeTar([{ name: 'a', pax: { path: 'a\0b' } }]), 'NUL'],
  ])('refuses %s', (_what, tar, why) => {
    expect(() => readTar(tar)).toThrow(why);
    expect(() => readTar(tar)).toThrow(JobError);
  });

  test('throws nothing but JobError, whatever it is fed', () => {
    const tar = makeTar(sample);
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(tar.length - 1), fc.nat(255)), { maxLength: 20 }), (changes) => {
        const damaged = Buffer.from(tar);
        for (const [at, byte] of changes) damaged[at] = byte;
        try {
          readTar(damaged);
        } catch (err) {
          expect(err).toBeInstanceOf(JobError);
        }
      }),
    );
  });
});

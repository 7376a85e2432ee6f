import { mkdir, mkdtempDisposable, rename, symlink, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test, vi } from 'vitest';
import { createLog } from '#base/log.ts';
import { type AccessFiles, RegistryAccess } from '../../../storage/access.ts';
import type { RegistryAuth } from '../../../storage/auth.ts';
import { formatReference, parseReference } from '../../../storage/reference.ts';

const call: RegistryAuth = { username: 'caller', password: '1', auth: '', serverAddress: '', identityToken: '', registryToken: '' };
const entry = (user: string): object => ({ auth: Buffer.from(`${user}:1`).toString('base64') });

interface Opened extends AsyncDisposable {
  readonly access: RegistryAccess;
  readonly dir: string;
  readonly conf: string;
  readonly messages: () => string[];
}

async function open(conf: string, files: (dir: string) => Partial<AccessFiles> = () => ({})): Promise<Opened> {
  const dir = await mkdtempDisposable(join(tmpdir(), 'berth-access-'));
  const path = join(dir.path, 'registries.conf');
  await writeFile(path, conf);
  const lines: string[] = [];
  const log = createLog('info', { write: (line) => void lines.push(line) });
  const access = await RegistryAccess.open({ registriesConf: path, globalAuthFile: join(dir.path, 'auth.json'), ...files(dir.path) }, log);
  return {
    access,
    dir: dir.path,
    conf: path,
    messages: () => lines.map((line) => (JSON.parse(line) as { msg: string }).msg),
    [Symbol.asyncDispose]: async () => {
      access[Symbol.dispose]();
      await dir[Symbol.asyncDispose]();
    },
  };
}

const hosts = async (access: RegistryAccess, name: string): Promise<string[]> =>
  (await access.targets(parseReference(name), undefined)).map(({ host }) => host);

describe('registries.conf', () => {
  const at = (location: string): string => `[[registry]]\nprefix = "a.com"\nlocation = "${location}"\n`;

  test('is read again when it or a drop-in has changed, at the next pull at the latest', async () => {
    await using opened = await open(at('one.com'));
    const { access, conf } = opened;
    await writeFile(conf, at('two.com'));
    await access.resolve(parseReference('a.com/x'));
    expect(await hosts(access, 'a.com/x')).toEqual(['two.com']);
    await mkdir(`${conf}.d`);
    await writeFile(join(`${conf}.d`, 'x.conf'), at('three.com'));
    await access.resolve(parseReference('a.com/x'));
    expect(await hosts(access, 'a.com/x')).toEqual(['three.com']);
  });

  test('is seen to change without a pull', async () => {
    await using opened = await open('');
    await writeFile(`${opened.conf}.new`, 'unqualified-search-registries = ["quay.io"]');
    await rename(`${opened.conf}.new`, opened.conf);
    await vi.waitFor(() => expect(opened.access.conf.candidates(parseReference('x')).map(formatReference)).toEqual(['quay.io/x:latest']), { timeout: 30_000 });
    expect(opened.messages()).toContain('Read changed registries.conf');
  });

  test('that breaks leaves the one before in force, and is told once', async () => {
    await using opened = await open(at('one.com'));
    await writeFile(opened.conf, 'nonsense');
    for (let round = 0; round < 3; round += 1) await opened.access.resolve(parseReference('a.com/x'));
    expect(await hosts(opened.access, 'a.com/x')).toEqual(['one.com']);
    expect(opened.messages().filter((message) => message.startsWith('Could not'))).toEqual(['Could not read changed registries.conf and keeps the one before']);
  });

  test('that has never been whole lets nothing be pulled: what it forbids is not known', async () => {
    await using opened = await open('nonsense');
    await expect(opened.access.resolve(parseReference('a.com/x'))).rejects.toMatchObject({ kind: 'failedPrecondition' });
    await writeFile(opened.conf, '');
    expect(await opened.access.resolve(parseReference('a.com/x'))).toHaveLength(1);
  });

  test('whose directory of drop-ins cannot be read leaves the one before in force, until it can', async () => {
    await using opened = await open(at('one.com'));
    const { access, conf } = opened;
    await symlink('registries.conf.d', `${conf}.d`);
    await access.resolve(parseReference('a.com/x'));
    expect(await hosts(access, 'a.com/x')).toEqual(['one.com']);
    await unlink(`${conf}.d`);
    await writeFile(conf, at('two.com'));
    await access.resolve(parseReference('a.com/x'));
    expect(await hosts(access, 'a.com/x')).toEqual(['two.com']);
    expect(opened.messages()).toContain('Could not read changed registries.conf and keeps the one before');
  });

  test('that cannot be read is named in the refusal to pull', async () => {
    await using opened = await open('');
    await mkdir(join(`${opened.conf}.d`, 'x.conf'), { recursive: true });
    await expect(opened.access.prepare({ registriesConf: opened.conf, globalAuthFile: '' })).rejects.toMatchObject({
      kind: 'failedPrecondition',
      message: `${opened.conf}.d/x.conf: cannot be read`,
    });
  });

  test('names keys that have no effect', async () => {
    await using opened = await open('credential-helpers = ["secretservice"]');
    expect(opened.messages()).toContain('Ignored key in registries.conf');
  });
});

describe('targets()', () => {
  const users = async (access: RegistryAccess, name: string, auth?: RegistryAuth): Promise<string[]> =>
    (await access.targets(parseReference(name), auth)).map(({ credentials }) => (credentials.kind === 'basic' ? credentials.username : credentials.kind));
  const pauseFiles = (dir: string): Partial<AccessFiles> => ({ pauseImage: 'k8s.com/pause:3', pauseImageAuthFile: join(dir, 'pause.json') });

  test('take the credentials of the call, then those of the pause image for it, then the global ones', async () => {
    await using opened = await open('', pauseFiles);
    const { access, dir } = opened;
    expect(await users(access, 'k8s.com/pause:3')).toEqual(['none']);
    await writeFile(join(dir, 'auth.json'), JSON.stringify({ auths: { 'k8s.com': entry('global') } }));
    expect(await users(access, 'k8s.com/pause:3')).toEqual(['global']);
    await writeFile(join(dir, 'pause.json'), JSON.stringify({ auths: { 'k8s.com': entry('pause') } }));
    expect(await users(access, 'k8s.com/pause:3')).toEqual(['pause']);
    expect(await users(access, 'k8s.com/pause:4')).toEqual(['global']);
    expect(await users(access, 'k8s.com/pause:3', call)).toEqual(['caller']);
    expect(await users(access, 'k8s.com/pause:3', { ...call, serverAddress: 'other.com' })).toEqual(['pause']);
    await writeFile(join(dir, 'pause.json'), JSON.stringify({ auths: { 'other.com': entry('pause') } }));
    expect(await users(access, 'k8s.com/pause:3')).toEqual(['global']);
  });

  test('give mirrors what the files have for them, never what the call brings', async () => {
    const conf = '[[registry]]\nprefix = "a.com"\nlocation = "moved.com/a"\n[[registry.mirror]]\nlocation = "mirror.com"';
    await using opened = await open(conf);
    await writeFile(join(opened.dir, 'auth.json'), JSON.stringify({ auths: { 'mirror.com': entry('mirror'), 'a.com': entry('named') } }));
    expect(await users(opened.access, 'a.com/x')).toEqual(['mirror', 'named']);
    expect(await users(opened.access, 'a.com/x', call)).toEqual(['mirror', 'caller']);
    await writeFile(join(opened.dir, 'auth.json'), JSON.stringify({ auths: { 'moved.com': entry('moved'), 'a.com': entry('named') } }));
    expect(await users(opened.access, 'a.com/x')).toEqual(['none', 'moved']);
  });

  test('refuse an auth file that is broken, rather than going without', async () => {
    await using opened = await open('');
    await writeFile(join(opened.dir, 'auth.json'), '{"auths":');
    await expect(users(opened.access, 'a.com/x')).rejects.toThrow(/auth.json: is not JSON$/);
  });
});

test('targets() refuse an auth file that cannot be read, by its name', async () => {
  await using opened = await open('');
  await mkdir(join(opened.dir, 'auth.json'));
  await expect(hosts(opened.access, 'a.com/x')).rejects.toMatchObject({
    kind: 'failedPrecondition',
    message: `${join(opened.dir, 'auth.json')}: cannot be read`,
  });
});

test('policyPath() takes the file of a namespace that is there, a link to nowhere too, which then lets nothing in', async () => {
  await using opened = await open('', (dir) => ({ signaturePolicyDir: dir, signaturePolicy: '/policy.json' }));
  const own = join(opened.dir, 'team-a.json');
  expect(opened.access.policyPath('team-a')).toBe('/policy.json');
  await symlink('/nonexistent', own);
  expect(opened.access.policyPath('team-a')).toBe(own);
  await expect(opened.access.policy(own)).rejects.toThrow(/^SignatureValidationFailed: .*team-a.json/);
  expect(opened.access.policyPath('../team-a')).toBe('/policy.json');
});

describe('prepare()', () => {
  test('changes nothing until it is told to, and nothing at all when a file is wrong', async () => {
    await using opened = await open('unqualified-search-registries = ["one.com"]');
    const { access, dir, conf } = opened;
    const other = join(dir, 'other.conf');
    await writeFile(other, 'unqualified-search-registries = ["two.com"]');
    const names = (): string[] => access.conf.candidates(parseReference('x')).map(formatReference);
    const commit = await access.prepare({ registriesConf: other, globalAuthFile: '' });
    expect(names()).toEqual(['one.com/x:latest']);
    commit();
    expect(names()).toEqual(['two.com/x:latest']);
    await writeFile(join(dir, 'bad.json'), 'x');
    for (const files of [
      { globalAuthFile: join(dir, 'bad.json') },
      { pauseImageAuthFile: join(dir, 'bad.json') },
      { signaturePolicy: join(dir, 'bad.json') },
    ]) {
      await expect(access.prepare({ registriesConf: conf, globalAuthFile: '', ...files })).rejects.toThrow('bad.json');
    }
    expect(names()).toEqual(['two.com/x:latest']);
  });
});

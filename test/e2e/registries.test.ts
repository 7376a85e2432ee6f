import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { Authority } from '../support/certificates.ts';
import { crictlFor } from '../support/crictl.ts';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { BUSYBOX } from '../support/images.ts';
import { freePort, type Registry, serveRegistry } from '../support/registry.ts';
import { CACHE, findTool } from '../support/tool.ts';
import { until } from '../support/wait.ts';

/** htpasswd -nbBC 4 alice secret-word */
const HTPASSWD = 'alice:$2y$04$RIgf7cnv/MaJi2OMAy2XV.s./zAIVPavD8JXLve5rrZ9mmb.ZK9eO\n';
const PATH = BUSYBOX.slice(BUSYBOX.indexOf('/') + 1);
const ready = inject('registry') !== '' && ['openssl', 'docker-registry'].every((tool) => findTool(tool) !== undefined);

let daemon: Daemon;
let registry: Registry;
const files = { certs: '', auth: '', policy: '' };

// A registry with TLS, a client certificate and a password: what a daemon needs for it is in its configuration.
beforeAll(async () => {
  if (!ready) return;
  daemon = await startDaemon({ handler: 'crun', registry: inject('registry') });
  const { directory } = daemon;
  Object.assign(files, { certs: join(directory, 'certs.d'), auth: join(directory, 'auth.json'), policy: join(directory, 'policy.json') });
  const pki = join(directory, 'pki');
  mkdirSync(pki);
  const authority = await Authority.make(pki, 'authority');
  const [server, client] = [await authority.issue('server'), await authority.issue('client')];
  const passwords = join(directory, 'htpasswd');
  writeFileSync(passwords, HTPASSWD);
  registry = await serveRegistry(join(CACHE, 'registry'), join(directory, 'registry.yml'), await freePort(), {
    tls: { certificate: server.cert, key: server.key, clientcas: [authority.cert] },
    auth: { htpasswd: { realm: 'test', path: passwords } },
  });
  const own = join(files.certs, registry.address);
  mkdirSync(own, { recursive: true });
  copyFileSync(authority.cert, join(own, 'ca.crt'));
  copyFileSync(client.cert, join(own, 'client.cert'));
  copyFileSync(client.key, join(own, 'client.key'));
  await daemon.kill('SIGTERM');
  configure(`certs_dirs = ${files.certs}\n`);
  await daemon.start();
});

afterAll(async () => {
  if (!ready) return;
  await registry[Symbol.asyncDispose]();
  await daemon[Symbol.asyncDispose]();
});

/** Writes the section `image` of a drop-in. */
function configure(image: string, more = ''): void {
  mkdirSync(`${daemon.configFile}.d`, { recursive: true });
  writeFileSync(join(`${daemon.configFile}.d`, '10-test.conf'), `[image]\ncerts_dirs = ${files.certs}\n${image.replace(/^certs_dirs.*\n/, '')}${more}`);
}

/** SIGHUP, and what the daemon says to it: that it has reloaded with these keys, or why not. */
async function reload(): Promise<string> {
  const before = daemon.log().length;
  const said = (): string | undefined =>
    daemon
      .log()
      .slice(before)
      .split('\n')
      .find((line) => /"(Reloaded configuration|Could not reload configuration)/.test(line));
  process.kill(daemon.pid(), 'SIGHUP');
  await until('the reload', async () => said() !== undefined);
  const { msg, reason, err } = JSON.parse(said() ?? '{}') as { msg: string; reason?: string; err?: { message: string } };
  return `${msg}: ${reason ?? err?.message}`;
}

test.skipIf(!ready)('crictl pulls with TLS, a client certificate and a password', async () => {
  const crictl = crictlFor(daemon);
  if (crictl === undefined) return;
  const name = `${registry.address}/${PATH}`;
  await expect(crictl('pull', name)).rejects.toThrow('wants credentials, and none were given (401)');
  await expect(crictl('pull', '--creds', 'alice:guess-word', name)).rejects.toThrow('refuses the credentials (401)');
  expect(await crictl('pull', '--creds', 'alice:secret-word', name)).toContain('Image is up to date');
  await crictl('pull', '--auth', Buffer.from('alice:secret-word').toString('base64'), name);
  expect(await crictl('images')).toContain(registry.address);
  expect(daemon.log()).not.toMatch(/secret-word|guess-word/);
});

test.skipIf(!ready)('SIGHUP takes other auth files, pins and policies into use, or none of them', async () => {
  const { cri } = daemon;
  const name = `${registry.address}/${PATH}`;
  const pull = () => cri.PullImage({ image: { image: name } });
  writeFileSync(
    files.auth,
    JSON.stringify({ auths: { [`${registry.address}/e2e-test-images`]: { auth: Buffer.from('alice:secret-word').toString('base64') } } }),
  );
  configure(`global_auth_file = ${files.auth}\npinned_images = *busybox*\n`);
  await expect(pull()).rejects.toMatchObject({ code: status.UNKNOWN, details: expect.stringContaining('wants credentials') });
  expect(await reload()).toMatch(/\[image\] global_auth_file \(.*10-test.conf:3\), \[image\] pinned_images/);
  await pull();
  expect((await cri.ImageStatus({ image: { image: name } })).image).toMatchObject({ pinned: true });

  writeFileSync(files.policy, JSON.stringify({ default: [{ type: 'reject' }] }));
  configure(`global_auth_file = ${files.auth}\nsignature_policy = ${files.policy}\n`, '[berth]\nlog_level = loud\n');
  expect(await reload()).toMatch(/^Could not reload configuration and has changed nothing: .*10-test.conf:\d+: \[berth\] log_level: "loud"/);
  await pull();
  expect((await cri.ImageStatus({ image: { image: name } })).image).toMatchObject({ pinned: true });

  configure(`global_auth_file = ${files.auth}\nsignature_policy = ${files.policy}\n`);
  await reload();
  await expect(pull()).rejects.toMatchObject({ code: status.UNKNOWN, details: expect.stringMatching(/^SignatureValidationFailed: image .* is rejected/) });
  expect((await cri.ImageStatus({ image: { image: name } })).image).toMatchObject({ pinned: false });

  const policies = join(daemon.directory, 'policies');
  mkdirSync(policies);
  copyFileSync(files.policy, join(policies, 'strict.json'));
  configure(`global_auth_file = ${files.auth}\nsignature_policy_dir = ${policies}\n`);
  await reload();
  const pullFor = (namespace: string) =>
    cri.PullImage({ image: { image: name }, sandbox_config: { metadata: { name: 'p', namespace, uid: 'u', attempt: 0 } } });
  await expect(pullFor('strict')).rejects.toThrow('SignatureValidationFailed');
  await pullFor('default');

  configure(`global_auth_file = ${files.auth}\nregistries_conf = ${join(daemon.directory, 'broken.conf')}\n`);
  writeFileSync(join(daemon.directory, 'broken.conf'), '\n[[registry]\n');
  expect(await reload()).toMatch(/^Could not reload.*broken\.conf:2: /);
  await expect(pullFor('strict')).rejects.toThrow('SignatureValidationFailed');
  configure('');
  expect(await reload()).toContain('Reloaded configuration');
});

test.skipIf(!ready)('a changed registries.conf is seen at once, a broken one is logged and the last good one stays', async () => {
  const { cri } = daemon;
  const conf = join(daemon.directory, 'registries.conf');
  const lines = (pattern: RegExp): number =>
    daemon
      .log()
      .split('\n')
      .filter((line) => pattern.test(line)).length;
  writeFileSync(conf, `[[registry]]\nprefix = "shop.example.com"\nlocation = "${inject('registry')}"\ninsecure = true\n`);
  const { image_ref } = await cri.PullImage({ image: { image: `shop.example.com/${PATH}` } });
  expect(image_ref).toMatch(/^sha256:/);
  writeFileSync(conf, '[[registry]]\nprefix = "shop.example.com"\nlocation = \n');
  await until('the log of the broken file', async () => lines(/Could not read changed registries.conf/) > 0);
  expect(daemon.log()).toMatch(/registries\.conf:3: /);
  await cri.PullImage({ image: { image: `shop.example.com/${PATH}` } });
  writeFileSync(conf, '[[registry]]\nprefix = "shop.example.com"\nlocation = "shop.example.com"\nblocked = true\n');
  await expect(cri.PullImage({ image: { image: `shop.example.com/${PATH}` } })).rejects.toMatchObject({
    code: status.FAILED_PRECONDITION,
    details: expect.stringContaining('registry shop.example.com is blocked in registries.conf'),
  });
});

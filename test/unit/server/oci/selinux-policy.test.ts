import { mkdir, mkdtempDisposable, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { readSelinuxPolicy } from '../../../../server/oci/selinux-policy.ts';

/** A node with these files, whose kernel knows these types. */
async function readFrom(files: Readonly<Record<string, string>>, types: readonly string[]) {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'selinux-'));
  for (const [name, text] of Object.entries(files)) {
    await mkdir(dirname(join(dir.path, name)), { recursive: true });
    await writeFile(join(dir.path, name), text);
  }
  const policy = await readSelinuxPolicy(dir.path, (label) => (types.includes(label.split(':')[2] ?? '') ? label : undefined));
  return typeof policy === 'string' ? policy.replaceAll(dir.path, '') : policy;
}

const config = '# SELINUXTYPE=mls\nSELINUX=enforcing\nSELINUXTYPE=default\n';
const contexts =
  'process = "system_u:system_r:mine_t:s0"\ncontent = "system_u:object_r:virt_var_lib_t:s0"\nfile = "system_u:object_r:mine_file_t:s0"\nro_file="x:y:z:s0"\nsandbox_lxc_process = "x"\n';

test('readSelinuxPolicy() takes the labels of the policy in use', async () => {
  const policy = await readFrom({ 'etc/selinux/config': config, 'etc/selinux/default/contexts/lxc_contexts': contexts }, ['mine_t', 'mine_file_t', 'spc_t']);
  expect(policy).toMatchObject({
    process: { user: 'system_u', role: 'system_r', type: 'mine_t', level: 's0' },
    file: { user: 'system_u', role: 'object_r', type: 'mine_file_t', level: 's0' },
    readonlyFile: { type: 'mine_file_t' },
    unconfinedType: 'spc_t',
  });
});

test('readSelinuxPolicy() takes a label for what is read only, or that of other files', async () => {
  const files = { 'etc/selinux/targeted/contexts/lxc_contexts': 'ro_file="system_u:object_r:mine_ro_t:s0"\n' };
  const types = ['container_t', 'container_file_t', 'container_ro_file_t'];
  expect(await readFrom(files, [...types, 'mine_ro_t'])).toMatchObject({ readonlyFile: { type: 'mine_ro_t' } });
  expect(await readFrom({}, types)).toMatchObject({ readonlyFile: { type: 'container_ro_file_t' } });
  expect(await readFrom(files, types)).toMatchObject({ readonlyFile: { type: 'container_file_t' } });
});

test('readSelinuxPolicy() falls back to the usual names, and does without spc_t', async () => {
  const policy = await readFrom({}, ['container_t', 'container_file_t']);
  expect(policy).toMatchObject({ process: { type: 'container_t' }, file: { type: 'container_file_t' } });
  expect(policy).not.toHaveProperty('unconfinedType');
});

test('readSelinuxPolicy() says what the kernel does not know', async () => {
  const files = { 'etc/selinux/config': config, 'etc/selinux/default/contexts/lxc_contexts': contexts };
  expect(await readFrom(files, ['mine_t'])).toBe(
    'the SELinux policy default does not know system_u:object_r:mine_file_t:s0, which is the file in /etc/selinux/default/contexts/lxc_contexts',
  );
  expect(await readFrom({}, [])).toBe('the SELinux policy targeted does not know system_u:system_r:container_t:s0');
});

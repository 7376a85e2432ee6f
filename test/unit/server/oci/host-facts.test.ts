import { mkdir, mkdtempDisposable, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { type HostFacts, readHostFacts } from '../../../../server/oci/host-facts.ts';

/** A host made of files; a name that ends in a slash is a directory. */
async function readFrom(files: Readonly<Record<string, string>>): Promise<HostFacts> {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'host-'));
  for (const [name, text] of Object.entries(files)) {
    const path = join(dir.path, name);
    await mkdir(name.endsWith('/') ? path : dirname(path), { recursive: true });
    if (!name.endsWith('/')) await writeFile(path, text);
  }
  return await readHostFacts(dir.path);
}

const status = 'Name:\tberth\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000021\nSeccomp:\t0\n';

test('readHostFacts() reads a host with cgroup v2', async () => {
  const facts = await readFrom({
    'proc/self/status': status,
    'proc/self/oom_score_adj': '-500\n',
    'proc/self/cgroup': '0::/system.slice/berth.service/monitors\n',
    'sys/fs/cgroup/cgroup.controllers': 'cpu memory hugetlb\n',
    'sys/fs/cgroup/system.slice/berth.service/memory.swap.max': 'max',
    'sys/kernel/mm/hugepages/hugepages-1048576kB/': '',
    'sys/kernel/mm/hugepages/hugepages-2048kB/': '',
    'sys/kernel/mm/hugepages/hugepages-64kB/': '',
    'sys/module/apparmor/parameters/enabled': 'Y\n',
    'sys/fs/selinux/enforce': '0',
  });
  expect(facts).toMatchObject({
    capabilities: ['CAP_CHOWN', 'CAP_KILL'],
    oomScoreAdj: -500,
    canLowerOomScore: false,
    seccomp: true,
    apparmor: true,
    selinux: true,
    cgroupV2: true,
    hugepageSizes: ['64KB', '2MB', '1GB'],
    swap: true,
    seccompArchitecture: expect.stringMatching(/^SCMP_ARCH_/),
  });
});

test('readHostFacts() reads a host with cgroup v1 and little else', async () => {
  const facts = await readFrom({
    'proc/self/status': 'CapPrm:\t0000000001000000\nCapBnd:\t000001ffffffffff\n',
    'proc/self/oom_score_adj': '0\n',
    'sys/fs/cgroup/memory/memory.limit_in_bytes': '',
    'sys/kernel/mm/hugepages/hugepages-2048kB/': '',
  });
  expect(facts).toMatchObject({
    capabilities: ['CAP_SYS_RESOURCE'],
    canLowerOomScore: true,
    seccomp: false,
    apparmor: false,
    selinux: false,
    cgroupV2: false,
    hugepageSizes: [],
    swap: false,
  });
});

test('readHostFacts() knows the hugetlb and the swap files of cgroup v1', async () => {
  const facts = await readFrom({
    'proc/self/status': status,
    'proc/self/oom_score_adj': '0',
    'sys/fs/cgroup/memory/memory.memsw.limit_in_bytes': '',
    'sys/fs/cgroup/hugetlb/': '',
    'sys/kernel/mm/hugepages/hugepages-2048kB/': '',
  });
  expect(facts).toMatchObject({ hugepageSizes: ['2MB'], swap: true });
});

test('readHostFacts() reads this host', async () => {
  const facts = await readHostFacts();
  expect(facts.oomScoreAdj).toBeTypeOf('number');
  expect(facts.seccompArchitecture).not.toBe('');
});

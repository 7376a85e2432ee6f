// A CNI plugin for tests. Install it with `installFakePlugin()` of cni-plugin.ts under any type name; it is then told
// what to do by keys of its own plugin configuration:
//
//   behaviour   what each call does; default "ok":
//                 ok       ADD sets up (see `leases`) and answers with `result`; DEL takes down
//                 fail     prints `error` as the specification has it, writes "fake plugin failed" to stderr, exits with 1
//                 half     ADD sets up, then fails as above; the same as fail for DEL
//                 hang     starts a child (`sleep`), sets up on ADD, then waits for ever, deaf to TERM
//                 escape   starts a child in a session of its own that keeps stdout open, then does what ok does and exits;
//                          the test has to end the child
//                 garbage  prints text that is not JSON, exits with 0
//                 crash    writes "panic: fake" to stderr, exits with 2
//                 empty    prints nothing, exits with 0
//                 huge     prints 100 MB
//                 kill     is ended by a signal
//   onAdd onDel onCheck onStatus onGc
//               the same for one verb alone
//   times       { "ADD": 2, "DEL": 3 }: only the first so many calls of that verb for a pod misbehave, later ones are ok;
//               needs `counter`
//   counter     path of a directory for the counts
//   error       what fail and half print; default {"code": 999, "msg": "fake failure", "details": "as asked"}
//   delayMs     wait so long before anything else
//   result      what ADD answers, as it is; without it `prevResult` where there is one, else one interface (CNI_IFNAME
//               in the pod) with `addresses`
//   addresses   default ["10.88.0.2/16"]
//   supported   is not a key: the environment FAKE_CNI_VERSIONS (blanks between) is what VERSION answers; `none` makes it fail
//   leases      path of a directory that stands for the network: ADD makes `<CNI_CONTAINERID>.<network>.<type>` in it,
//               DEL removes it, GC removes what is of no valid attachment, CHECK fails without it. What is left there was
//               not taken down.
//   record      path of a file: each call appends one line of JSON,
//               { verb, type, pid, child, env: { CNI_… and PATH }, conf }, before it misbehaves
//
// It makes no interface and needs no root.
import { spawn } from 'node:child_process';
import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';

const { CNI_COMMAND: verb = '', CNI_CONTAINERID: id = '', CNI_IFNAME: ifName = '', CNI_NETNS: netns = '' } = process.env;
const conf = JSON.parse(readFileSync(0, 'utf8'));

if (verb === 'VERSION') {
  const versions = process.env.FAKE_CNI_VERSIONS ?? '0.1.0 0.2.0 0.3.0 0.3.1 0.4.0 1.0.0 1.1.0';
  if (versions === 'none') process.exit(1);
  print({ cniVersion: '1.1.0', supportedVersions: versions.split(' ') });
  process.exit(0);
}

if (conf.delayMs !== undefined) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, conf.delayMs);

const own = { ADD: conf.onAdd, DEL: conf.onDel, CHECK: conf.onCheck, STATUS: conf.onStatus, GC: conf.onGc };
const behaviour = misbehavesNow() ? (own[verb] ?? (verb === 'ADD' || verb === 'DEL' ? conf.behaviour : undefined) ?? 'ok') : 'ok';
const child = behaviour === 'hang' || behaviour === 'escape' ? startChild() : undefined;
record();

switch (behaviour) {
  case 'ok':
  case 'escape':
    setUp();
    if (verb === 'ADD') print(result());
    break;
  case 'half':
    setUp();
    fail();
    break;
  case 'fail':
    fail();
    break;
  case 'hang':
    process.on('SIGTERM', () => {});
    setUp();
    setInterval(() => {}, 1000);
    break;
  case 'garbage':
    writeSync(1, 'Usage: fake [options]\n');
    break;
  case 'crash':
    writeSync(2, 'panic: fake\n');
    process.exitCode = 2;
    break;
  case 'huge':
    huge();
    break;
  case 'kill':
    process.kill(process.pid, 'SIGKILL');
    break;
  case 'empty':
    break;
  default:
    throw new Error(`fake plugin: no behaviour ${behaviour}`);
}

function startChild() {
  const sleeper = spawn('sleep', ['1000'], { stdio: ['ignore', 'inherit', 'inherit'], detached: behaviour === 'escape' });
  sleeper.unref();
  return sleeper.pid;
}

function misbehavesNow() {
  const limit = conf.times?.[verb];
  if (limit === undefined) return true;
  mkdirSync(conf.counter, { recursive: true });
  const file = join(conf.counter, `${id}.${conf.type}.${verb}`);
  let count = 0;
  try {
    count = Number(readFileSync(file, 'utf8'));
  } catch {
    // the first call
  }
  writeFileSync(file, String(count + 1));
  return count < limit;
}

function setUp() {
  if (conf.leases === undefined) return;
  const lease = join(conf.leases, `${id}.${conf.name}.${conf.type}`);
  if (verb === 'ADD') {
    mkdirSync(conf.leases, { recursive: true });
    writeFileSync(lease, netns);
  } else if (verb === 'GC') {
    const valid = conf['cni.dev/valid-attachments'].map(({ containerID }) => `${containerID}.${conf.name}.${conf.type}`);
    for (const name of readdirSync(conf.leases)) if (name.endsWith(`.${conf.name}.${conf.type}`) && !valid.includes(name)) rmSync(join(conf.leases, name));
  } else if (verb === 'CHECK') {
    if (!existsSync(lease)) fail();
  } else if (verb === 'DEL' && (behaviour === 'ok' || behaviour === 'escape')) {
    rmSync(lease, { force: true });
  }
}

function result() {
  if (conf.result !== undefined) return conf.result;
  if (conf.prevResult !== undefined) return conf.prevResult;
  const addresses = conf.addresses ?? ['10.88.0.2/16'];
  if (/^0\.[12]\./.test(conf.cniVersion)) {
    const one = (six) => addresses.filter((address) => address.includes(':') === six).map((ip) => ({ ip }))[0];
    return { cniVersion: conf.cniVersion, ip4: one(false), ip6: one(true) };
  }
  const withVersion = conf.cniVersion.startsWith('0.');
  const ips = addresses.map((address) => ({ ...(withVersion ? { version: address.includes(':') ? '6' : '4' } : {}), address, interface: 0 }));
  return { cniVersion: conf.cniVersion, interfaces: [{ name: ifName, sandbox: netns }], ips, dns: {} };
}

function fail() {
  writeSync(2, 'fake plugin failed\n');
  print({ cniVersion: conf.cniVersion, ...(conf.error ?? { code: 999, msg: 'fake failure', details: 'as asked' }) });
  process.exitCode = 1;
}

function huge() {
  const piece = Buffer.alloc(1_000_000, 'x');
  for (let count = 0; count < 100; count += 1) {
    for (let at = 0; at < piece.length; ) at += writeSync(1, piece, at);
  }
}

function record() {
  if (conf.record === undefined) return;
  const env = Object.fromEntries(Object.entries(process.env).filter(([key]) => key === 'PATH' || key.startsWith('CNI_')));
  appendFileSync(conf.record, `${JSON.stringify({ verb, type: conf.type, pid: process.pid, child, env, conf })}\n`);
}

function print(value) {
  writeSync(1, JSON.stringify(value));
}

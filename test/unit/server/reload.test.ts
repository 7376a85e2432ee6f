import { describe, expect, test } from 'vitest';
import { CriError } from '#base/errors.ts';
import { createLog } from '#base/log.ts';
import { defaultValues, type LoadedConfig, type LoadOptions, loadWithValues, parseWithValues, referenceHost } from '../../../server/config.ts';
import { LiveConfig, reloadableKeys } from '../../../server/reload.ts';

interface Line {
  readonly level: string;
  readonly msg: string;
  readonly reason?: string;
  readonly err?: { readonly message: string };
}

/** A live configuration over a text that can change. */
function live(first: string) {
  let text = first;
  const lines: Line[] = [];
  const load = (): LoadedConfig => parseWithValues([{ path: '/b.conf', text }], { host: referenceHost });
  const log = createLog('info', { write: (line) => void lines.push(JSON.parse(line)) });
  const config = new LiveConfig(load(), { load, log });
  return {
    config,
    lines,
    log,
    write: (next: string): void => {
      text = next;
    },
  };
}

describe('reload()', () => {
  test('takes the keys that can change, names those that wait, with file and line', async () => {
    const at = live('[image]\npinned_images = a\n');
    const seen: string[] = [];
    at.config.onReload((next, before) => {
      seen.push(`${before.image.pinnedImages} -> ${next.image.pinnedImages}`);
      return () => seen.push('taken');
    });
    at.write('[image]\npinned_images = b\n[runtime]\npids_limit = 7\nnamespaces_dir = /n\n');
    await at.config.reload();
    expect(seen).toEqual(['a -> b', 'taken']);
    expect(at.config.current.runtime).toMatchObject({ pidsLimit: 7, namespacesDir: '/run' });
    expect(at.lines).toMatchObject([
      { level: 'info', msg: 'Reloaded configuration', reason: '[runtime] pids_limit (/b.conf:4), [image] pinned_images (/b.conf:2)' },
      { level: 'warn', msg: 'Changed configuration waits for a restart', reason: '[runtime] namespaces_dir (/b.conf:5)' },
    ]);
    at.write('[runtime]\npids_limit = 7\n');
    await at.config.reload();
    expect(at.config.current.image.pinnedImages).toEqual([]);
    expect(at.lines.at(-1)).toMatchObject({ msg: 'Reloaded configuration', reason: '[image] pinned_images (default)' });
  });

  test('changes nothing when the file is wrong, and says where', async () => {
    const at = live('[image]\npinned_images = a\n');
    at.write('[image]\npinned_images = b\nmax_parallel_downloads = many\n');
    await at.config.reload();
    expect(at.config.current.image.pinnedImages).toEqual(['a']);
    expect(at.lines).toMatchObject([{ level: 'error', msg: 'Could not reload configuration and has changed nothing' }]);
    expect(at.lines[0]?.err?.message).toMatch('/b.conf:3: [image] max_parallel_downloads: "many" is not a whole number');
    at.write('[image]\npinned_images = c\n');
    await at.config.reload();
    expect(at.config.current.image.pinnedImages).toEqual(['c']);
  });

  test('changes nothing when one part cannot', async () => {
    const at = live('');
    const taken: string[] = [];
    at.config.onReload(() => () => taken.push('first'));
    at.config.onReload(() => Promise.reject(new CriError('failedPrecondition', '/r.conf:3: is wrong')));
    at.write('[berth]\nlog_level = debug\n');
    await at.config.reload();
    expect(taken).toEqual([]);
    expect(at.config.current.logLevel).toBe('info');
    expect(at.lines[0]?.err?.message).toBe('/r.conf:3: is wrong');
  });

  test('asks the parts also when no key has changed: their files may have', async () => {
    const at = live('');
    let asked = 0;
    at.config.onReload(() => {
      asked += 1;
      return () => {};
    });
    await Promise.all([at.config.reload(), at.config.reload()]);
    expect(asked).toBe(2);
    expect(at.lines).toMatchObject([{ msg: 'Reloaded configuration' }, { msg: 'Reloaded configuration' }]);
  });
});

test('each key that can be reloaded is one of the configuration', () => {
  const known = defaultValues().map(({ section, key }) => `${section}.${key}`);
  expect(reloadableKeys.filter((key) => !known.includes(key))).toEqual([]);
});

test('setLevel() reaches the logs that were made before', () => {
  const { log, lines } = live('');
  const child = log.child({ rpc: 'Status' });
  child.debug('Said too much');
  log.setLevel('debug');
  child.debug('Said it');
  log.setLevel('error');
  child.warn('Kept quiet');
  expect(lines.map(({ msg }) => msg)).toEqual(['Said it']);
});

test('loadWithValues() refuses a file that is not there', () => {
  const options: LoadOptions = { path: '/nowhere/berth.conf' };
  expect(() => loadWithValues(options)).toThrow('/nowhere/berth.conf: configuration cannot be read');
});

import { stat } from 'node:fs/promises';
import type { Run } from '#base/exec.ts';
import type { Log } from '#base/log.ts';
import { CNI_VERSIONS, type CniVersion, isObject } from './conf.ts';

/** A plugin that does not tell its versions within this time is taken to speak all of them. */
const LIMIT_MS = 5_000;

/** What each plugin's binary says it speaks, asked once for each state of its file (CNI spec 1.1, VERSION). */
export class PluginVersions {
  readonly #run: Run;
  readonly #log: Log;
  readonly #observe: (seconds: number, plugin: string, ok: boolean) => void;
  readonly #known = new Map<string, { readonly stamp: string; readonly spoken: Promise<readonly string[] | undefined> }>();

  constructor({ run, log, observe }: { readonly run: Run; readonly log: Log; readonly observe: (seconds: number, plugin: string, ok: boolean) => void }) {
    this.#run = run;
    this.#log = log;
    this.#observe = observe;
  }

  /** `undefined` for a plugin that does not know the verb, as some shell scripts: nobody can tell then. */
  async of(type: string, path: string): Promise<readonly string[] | undefined> {
    const { ino, size, mtimeMs } = await stat(path);
    const stamp = `${ino} ${size} ${mtimeMs}`;
    const known = this.#known.get(path);
    if (known?.stamp === stamp) return await known.spoken;
    const spoken = this.#ask(type, path);
    this.#known.set(path, { stamp, spoken });
    return await spoken;
  }

  async #ask(type: string, path: string): Promise<readonly string[] | undefined> {
    const startedAt = performance.now();
    let ok = false;
    try {
      const { stdout } = await this.#run(path, [], {
        signal: AbortSignal.timeout(LIMIT_MS),
        env: { CNI_COMMAND: 'VERSION' },
        input: JSON.stringify({ cniVersion: CNI_VERSIONS.at(-1) }),
        hot: true,
        maxOutputBytes: 64 * 1024,
      });
      const raw: unknown = JSON.parse(stdout);
      const spoken = isObject(raw) && Array.isArray(raw.supportedVersions) ? raw.supportedVersions.filter((version) => typeof version === 'string') : [];
      if (spoken.length === 0) throw new Error('named no supportedVersions');
      ok = true;
      return spoken;
    } catch (err) {
      this.#log.debug({ err, path }, 'Plugin did not tell its CNI versions');
      return undefined;
    } finally {
      this.#observe((performance.now() - startedAt) / 1000, type, ok);
    }
  }
}

/**
 * The newest of the versions that the configuration offers and every plugin speaks.
 * @throws {Error} that names the plugin that speaks none of them.
 */
export function negotiate(
  offered: readonly CniVersion[],
  plugins: readonly { readonly type: string; readonly spoken: readonly string[] | undefined }[],
): CniVersion {
  const common = offered.filter((version) => plugins.every(({ spoken }) => spoken === undefined || spoken.includes(version)));
  const newest = CNI_VERSIONS.findLast((version) => common.includes(version));
  if (newest !== undefined) return newest;
  const strangers = plugins.filter(({ spoken }) => spoken !== undefined && !offered.some((version) => spoken.includes(version)));
  const each = strangers.map(({ type, spoken = [] }) => `plugin ${type} speaks CNI ${spoken.join(', ')}`);
  throw new Error(
    strangers.length === 0
      ? `its plugins have no CNI version in common among ${offered.join(', ')}`
      : `${each.join('; ')}, and the configuration offers only ${offered.join(', ')}`,
  );
}

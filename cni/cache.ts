import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFileAtomic } from '#base/atomic-file.ts';
import { isErrno } from '#base/errors.ts';
import type { Log } from '#base/log.ts';
import { isObject } from './conf.ts';
import type { Attachment } from './pod-network.ts';

/**
 * What plugins were told and have answered, one file for each pod, from its ADD until its DEL has succeeded (CNI
 * spec 1.1, "Lifecycle & Ordering": DEL gets the cached configuration and result). The caller keeps the same in its own
 * records; this is the second copy, for when those are damaged or older than the last ADD.
 */
export class AttachmentCache {
  readonly #directory: string;
  readonly #log: Log;

  private constructor(directory: string, log: Log) {
    this.#directory = directory;
    this.#log = log;
  }

  static async open(directory: string, log: Log): Promise<AttachmentCache> {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    // A write that a crash cut short; nobody else writes here.
    for (const name of await readdir(directory)) if (name.endsWith('.tmp')) await rm(join(directory, name), { force: true });
    return new AttachmentCache(directory, log);
  }

  async save(attachment: Attachment): Promise<void> {
    await writeFileAtomic(this.#path(attachment.pod.id), JSON.stringify(attachment), { lasting: false });
  }

  /** `undefined` where there is none, or none that can be read. */
  async load(id: string): Promise<Attachment | undefined> {
    const path = this.#path(id);
    try {
      const raw: unknown = JSON.parse(await readFile(path, 'utf8'));
      if (!isAttachment(raw) || raw.pod.id !== id) throw new Error('is not the attachment of this pod');
      return raw;
    } catch (err) {
      if (!isErrno(err, 'ENOENT')) this.#log.warn({ err, path }, 'Passed over damaged CNI cache file');
      return undefined;
    }
  }

  async remove(id: string): Promise<void> {
    await rm(this.#path(id), { force: true });
  }

  /** The ids of all pods that it has a file of. */
  async ids(): Promise<string[]> {
    return (await readdir(this.#directory)).filter((name) => name.endsWith('.json')).map((name) => name.slice(0, -'.json'.length));
  }

  #path(id: string): string {
    return join(this.#directory, `${id}.json`);
  }
}

function isAttachment(raw: unknown): raw is Attachment {
  return isObject(raw) && isObject(raw.pod) && Array.isArray(raw.networks) && raw.networks.every((network) => isObject(network) && isObject(network.conf));
}

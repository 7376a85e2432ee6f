import { type ContainerRecord, containerKey } from './container/container.ts';
import { undoContainer } from './container/create.ts';
import type { CreationBackend, Finished } from './creation.ts';
import type { Parts } from './parts.ts';
import type { Records } from './records.ts';
import { type SandboxRecord, sandboxKey } from './sandbox/sandbox.ts';
import { takeDownSandbox } from './sandbox/take-down.ts';

/** What creations need to know of finished pods. */
export function sandboxBackend(parts: Parts): CreationBackend {
  return {
    finished: (family) => finished(parts, family, parts.sandboxes, (record) => ({ ...sandboxKey(record.config), fresh: record.state === 'ready' })),
    setClaimed: (id, claimed) => setClaimed(parts.sandboxes, id, claimed),
    isDoomed: (id) => parts.doomed.has(id),
    takeDown: (id, reason) => takeDownSandbox(parts, id, { reason }),
  };
}

/** What creations need to know of finished containers. */
export function containerBackend(parts: Parts): CreationBackend {
  return {
    finished: (family) =>
      finished(parts, family, parts.containers, (record) => ({ ...containerKey(record.sandboxId, record), fresh: record.state.name === 'created' })),
    setClaimed: (id, claimed) => setClaimed(parts.containers, id, claimed),
    isDoomed: (id) => parts.doomed.has(id),
    takeDown: (id, reason) => undoContainer(parts, id, reason),
  };
}

type Kept = SandboxRecord | ContainerRecord;

function finished<R extends Kept>(
  { doomed }: Parts,
  family: string,
  records: Records<R>,
  describe: (record: R) => { readonly key: string; readonly family: string; readonly attempt: number; readonly fresh: boolean },
): Finished[] {
  const found: Finished[] = [];
  for (const record of records.values()) {
    const { id, fingerprint, claimed, state } = record;
    if (doomed.has(id) || state === 'creating' || (typeof state !== 'string' && state.name === 'creating')) continue;
    const of = describe(record);
    if (of.family === family) found.push({ id, fingerprint, claimed, ...of });
  }
  return found;
}

async function setClaimed<R extends Kept>(records: Records<R>, id: string, claimed: boolean): Promise<void> {
  await records.update(id, (old) => {
    if (old.claimed === claimed) return undefined;
    const { unclaimedSince: _, ...rest } = old;
    return { ...(rest as R), claimed, ...(claimed ? {} : { unclaimedSince: Date.now() }) };
  });
}

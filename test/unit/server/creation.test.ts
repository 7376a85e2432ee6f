import { afterEach, expect, test } from 'vitest';
import { CriError } from '#base/errors.ts';
import { newId, type ObjectId } from '#base/id.ts';
import { silentLog } from '#base/log.ts';
import type { Stage } from '../../../server/call.ts';
import { type CreationRequest, Creations, type Finished, type Flight } from '../../../server/creation.ts';

/** A store of finished objects, as the records are, and a `make` that ends when the test says so. */
function world({ timeoutMs = 60_000 } = {}) {
  const life = new AbortController();
  const objects = new Map<ObjectId, Finished & { readonly family: string }>();
  const takenDown: ObjectId[] = [];
  const creations = new Creations(
    {
      finished: (family) => [...objects.values()].filter((item) => item.family === family),
      setClaimed: async (id, claimed) => {
        const item = objects.get(id);
        if (item !== undefined) objects.set(id, { ...item, claimed });
      },
      isDoomed: () => false,
      takeDown: async (id) => {
        takenDown.push(id);
        objects.delete(id);
      },
    },
    { timeoutMs, signal: life.signal, log: silentLog },
  );
  const flights: { readonly flight: Flight; finish(): ObjectId; fail(err: unknown): void; undone: boolean }[] = [];
  const make =
    (request: CreationRequest) =>
    (flight: Flight): Promise<ObjectId> =>
      new Promise((resolve, reject) => {
        const entry = {
          flight,
          undone: false,
          finish: (): ObjectId => {
            const id = newId();
            objects.set(id, {
              id,
              key: request.key,
              family: request.family,
              attempt: request.attempt,
              fingerprint: request.fingerprint,
              claimed: flight.isWanted(),
              fresh: true,
            });
            resolve(id);
            return id;
          },
          fail: reject,
        };
        flight.signal.addEventListener('abort', () => {
          entry.undone = true;
          reject(flight.signal.reason);
        });
        flights.push(entry);
      });
  const ask = (request: CreationRequest, signal: AbortSignal = new AbortController().signal, stage: Stage = { name: '' }) =>
    creations.create(request, make(request), { signal, stage });
  return { creations, objects, takenDown, flights, ask, life };
}

const request = (over: Partial<CreationRequest> = {}): CreationRequest => ({ key: 'a/0', family: 'a', attempt: 0, fingerprint: 'f', what: 'pod a', ...over });
const turns = async (): Promise<void> => {
  for (let turn = 0; turn < 10; turn += 1) await Promise.resolve();
};

const lives: AbortController[] = [];
afterEach(() => {
  for (const life of lives.splice(0)) life.abort();
});

test('create() makes one object for equal requests at the same time and answers all of them', async () => {
  const { flights, ask } = world();
  const asked = [ask(request()), ask(request()), ask(request())];
  await turns();
  expect(flights).toHaveLength(1);
  const id = flights[0]?.finish();
  expect(await Promise.all(asked)).toEqual([id, id, id]);
});

test('create() goes on after its caller has left, and the retry gets the result', async () => {
  const { flights, objects, ask } = world();
  const caller = new AbortController();
  const first = ask(request(), caller.signal);
  await turns();
  caller.abort(new CriError('cancelled', 'gone'));
  await expect(first).rejects.toThrow('gone');
  const retry = ask(request());
  await turns();
  expect(flights).toHaveLength(1);
  const id = flights[0]?.finish() as ObjectId;
  expect(await retry).toBe(id);
  expect(objects.get(id)?.claimed).toBe(true);
});

test('create() leaves what it finished for nobody unclaimed, and a retry claims it', async () => {
  const { flights, objects, ask } = world();
  const caller = new AbortController();
  const first = ask(request(), caller.signal);
  await turns();
  caller.abort(new CriError('cancelled', 'gone'));
  await expect(first).rejects.toThrow('gone');
  const id = flights[0]?.finish() as ObjectId;
  await turns();
  expect(objects.get(id)?.claimed).toBe(false);
  expect(await ask(request())).toBe(id);
  expect(objects.get(id)?.claimed).toBe(true);
  expect(flights).toHaveLength(1);
});

test('create() answers a repeated request for a claimed object with its id', async () => {
  const { flights, ask } = world();
  const first = ask(request());
  await turns();
  const id = flights[0]?.finish();
  await first;
  expect(await ask(request())).toBe(id);
});

test('create() refuses a different request for a claimed object and names it', async () => {
  const { flights, ask } = world();
  const first = ask(request());
  await turns();
  const id = flights[0]?.finish();
  await first;
  await expect(ask(request({ fingerprint: 'other' }))).rejects.toThrow(`pod a exists already as ${id} with a different configuration`);
});

test('create() undoes work in flight that nobody waits for when a different request asks for the same key', async () => {
  const { flights, ask } = world();
  const caller = new AbortController();
  const first = ask(request(), caller.signal);
  await turns();
  caller.abort(new CriError('cancelled', 'gone'));
  await expect(first).rejects.toThrow('gone');
  const second = ask(request({ fingerprint: 'other' }));
  await turns();
  expect(flights[0]?.undone).toBe(true);
  expect(flights).toHaveLength(2);
  const id = flights[1]?.finish();
  expect(await second).toBe(id);
});

test('create() lets a newer attempt supersede an unclaimed older one, in flight or finished', async () => {
  const { flights, takenDown, ask } = world();
  const caller = new AbortController();
  const done = ask(request({ key: 'a/0' }), caller.signal);
  const inFlight = ask(request({ key: 'a/1', attempt: 1 }), caller.signal);
  await turns();
  caller.abort(new CriError('cancelled', 'gone'));
  await expect(done).rejects.toThrow('gone');
  await expect(inFlight).rejects.toThrow('gone');
  const old = flights[0]?.finish() as ObjectId;
  await turns();
  const newer = ask(request({ key: 'a/2', attempt: 2 }));
  await turns();
  expect(takenDown).toEqual([old]);
  expect(flights[1]?.undone).toBe(true);
  const id = flights[2]?.finish();
  expect(await newer).toBe(id);
});

test('create() leaves an older attempt alone while someone waits for it', async () => {
  const { flights, ask } = world();
  const older = ask(request({ key: 'a/0' }));
  const newer = ask(request({ key: 'a/1', attempt: 1 }));
  await turns();
  expect(flights[0]?.undone).toBe(false);
  const ids = [flights[0]?.finish(), flights[1]?.finish()];
  expect(await Promise.all([older, newer])).toEqual(ids);
});

test('create() tells every caller the stage, also those who joined later', async () => {
  const { flights, ask } = world();
  const early = { name: '' };
  const late = { name: '' };
  const first = ask(request(), undefined, early);
  await turns();
  flights[0]?.flight.stage('CNI ADD by bridge');
  const second = ask(request(), undefined, late);
  await turns();
  expect([early.name, late.name]).toEqual(['CNI ADD by bridge', 'CNI ADD by bridge']);
  flights[0]?.finish();
  await Promise.all([first, second]);
});

test('create() answers a failure to all callers and starts afresh afterwards', async () => {
  const { flights, ask } = world();
  const both = [ask(request()), ask(request())];
  await turns();
  flights[0]?.fail(new CriError('unavailable', 'no network'));
  for (const asked of both) await expect(asked).rejects.toThrow('no network');
  const retry = ask(request());
  await turns();
  expect(flights).toHaveLength(2);
  const id = flights[1]?.finish();
  expect(await retry).toBe(id);
});

test('create() undoes what is in flight longer than the limit and names the stage', async () => {
  const { flights, ask } = world({ timeoutMs: 30 });
  const asked = ask(request());
  await turns();
  flights[0]?.flight.stage('CNI ADD by slow');
  await expect(asked).rejects.toThrow('pod a: undone, since CNI ADD by slow did not finish within 0.03 s');
  expect(flights[0]?.undone).toBe(true);
});

test('abortAll() ends creations in flight and waits for their undoing', async () => {
  const { creations, flights, ask } = world();
  const asked = ask(request());
  await turns();
  await Promise.all([creations.abortAll(new CriError('unavailable', 'berth is stopping')), expect(asked).rejects.toThrow('berth is stopping')]);
  expect(flights[0]?.undone).toBe(true);
  expect(creations.size).toBe(0);
});

test('create() leaves unclaimed what is finished in the moment in which its last caller leaves', async () => {
  const { flights, objects, ask } = world();
  const caller = new AbortController();
  const first = ask(request(), caller.signal);
  await turns();
  const id = flights[0]?.finish() as ObjectId; // claimed: the caller still waits
  caller.abort(new CriError('cancelled', 'gone'));
  await expect(first).rejects.toThrow('gone');
  await turns();
  expect(objects.get(id)?.claimed).toBe(false);
});

test('create() keeps the claim of one caller when another one leaves', async () => {
  const { flights, objects, ask } = world();
  const leaver = new AbortController();
  const leaving = ask(request(), leaver.signal);
  const staying = ask(request());
  await turns();
  const id = flights[0]?.finish() as ObjectId;
  leaver.abort(new CriError('cancelled', 'gone'));
  await expect(leaving).rejects.toThrow('gone');
  expect(await staying).toBe(id);
  await turns();
  expect(objects.get(id)?.claimed).toBe(true);
});

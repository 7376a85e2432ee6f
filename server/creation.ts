import { orAborted, withTimeout } from '#base/abort.ts';
import { CriError, describeError } from '#base/errors.ts';
import type { ObjectId } from '#base/id.ts';
import type { Log } from '#base/log.ts';
import type { Stage } from './call.ts';

/** What a creation works with while it is in flight. */
export interface Flight {
  /** Ends the creation: the daemon stops, it took too long, or a newer request took its place. Never the caller's own signal. */
  readonly signal: AbortSignal;
  /** Says what is going on now. */
  stage(name: string): void;
  /** True while someone waits for the result. */
  isWanted(): boolean;
}

/** What a creation makes. */
export interface CreationKey {
  /** What it makes, such as `pod default/web` with uid and attempt: one object per key. */
  readonly key: string;
  /** The key without the attempt: a newer attempt takes the place of what nobody claimed. */
  readonly family: string;
  readonly attempt: number;
}

/** A request to create one object. */
export interface CreationRequest extends CreationKey {
  /** Equal for requests that ask for the same thing. */
  readonly fingerprint: string;
  /** For messages: `pod default/web`. */
  readonly what: string;
}

/** An object that an earlier request of the same key or family has finished. */
export interface Finished {
  readonly id: ObjectId;
  readonly key: string;
  readonly attempt: number;
  readonly fingerprint: string;
  readonly claimed: boolean;
  /** It can be handed out as the result of creating it: a sandbox is ready, a container was not started yet. */
  readonly fresh: boolean;
}

export interface CreationBackend {
  /** Finished objects of a family. */
  finished(family: string): Finished[];
  setClaimed(id: ObjectId, claimed: boolean): Promise<void>;
  /** It is being taken down, or is to be. */
  isDoomed(id: ObjectId): boolean;
  /** Undoes a finished object that nobody has claimed. Must not reject: what fails is retried by the sweeper. */
  takeDown(id: ObjectId, reason: string): Promise<void>;
}

export interface CreationOptions {
  /** A creation in flight for longer is undone. Milliseconds. */
  readonly timeoutMs: number;
  /** The daemon's own signal. */
  readonly signal: AbortSignal;
  readonly log: Log;
}

interface InFlight {
  readonly request: CreationRequest;
  readonly controller: AbortController;
  readonly promise: Promise<ObjectId>;
  /** Who waits, with the signal of each. */
  readonly watchers: Map<Stage, AbortSignal>;
  stageName: string;
  /** Someone was told of the result. */
  delivered: boolean;
}

/**
 * Makes creation idempotent: calls are keyed by what they make. A call that asks for what is already being made joins
 * the work and gets its result; work goes on when its caller has left, for the retry that will come; what is finished
 * with nobody to tell stays unclaimed, and so unseen, until a retry claims it, a newer attempt supersedes it, or the
 * sweeper takes it down.
 */
export class Creations {
  readonly #backend: CreationBackend;
  readonly #options: CreationOptions;
  readonly #flights = new Map<string, InFlight>();

  constructor(backend: CreationBackend, options: CreationOptions) {
    this.#backend = backend;
    this.#options = options;
  }

  /** The id of the object, made by `make` or by an equal request before. `make` undoes what it did when it fails. */
  async create(
    request: CreationRequest,
    make: (flight: Flight) => Promise<ObjectId>,
    { signal, stage }: { readonly signal: AbortSignal; readonly stage: Stage },
  ): Promise<ObjectId> {
    for (;;) {
      signal.throwIfAborted();
      const flight = this.#flights.get(request.key);
      if (flight !== undefined) {
        if (flight.request.fingerprint === request.fingerprint && !flight.controller.signal.aborted) return this.#wait(flight, signal, stage);
        // A different request for the same thing: whoever asked first has left, or gets an answer first.
        if (flight.watchers.size === 0) flight.controller.abort(superseded(request));
        stage.name = `undoing an earlier creation of ${request.what} (${flight.stageName})`;
        await orAborted(settled(flight.promise), signal);
        continue;
      }
      const finished = this.#backend.finished(request.family).find((item) => item.key === request.key);
      if (finished === undefined) {
        this.#supersedeOlder(request);
        return this.#wait(this.#start(request, make), signal, stage);
      }
      if (finished.fresh && finished.fingerprint === request.fingerprint) {
        if (!finished.claimed) await this.#claim(finished.id, signal, () => false);
        if (this.#backend.isDoomed(finished.id)) continue; // its time ran out while it was claimed
        return finished.id;
      }
      if (finished.claimed)
        throw new CriError('alreadyExists', `${request.what} exists already as ${finished.id}${finished.fresh ? ' with a different configuration' : ''}`);
      stage.name = `undoing an earlier creation of ${request.what}`;
      await orAborted(this.#backend.takeDown(finished.id, 'a retry asks for something else'), signal);
    }
  }

  /** Ends every creation in flight and waits until each has undone itself: for the daemon's stop. */
  async abortAll(reason: CriError): Promise<void> {
    const flights = [...this.#flights.values()];
    for (const flight of flights) flight.controller.abort(reason);
    await Promise.all(flights.map((flight) => settled(flight.promise)));
  }

  get size(): number {
    return this.#flights.size;
  }

  #start(request: CreationRequest, make: (flight: Flight) => Promise<ObjectId>): InFlight {
    const controller = new AbortController();
    const { timeoutMs, log } = this.#options;
    const signal = AbortSignal.any([withTimeout(this.#options.signal, timeoutMs), controller.signal]);
    const watchers: InFlight['watchers'] = new Map();
    const isWanted = (): boolean => [...watchers.values()].some((caller) => !caller.aborted);
    const enter = (name: string): void => {
      flight.stageName = name;
      for (const watcher of watchers.keys()) watcher.name = name;
    };
    let stuckIn = '';
    signal.addEventListener('abort', () => {
      stuckIn = flight.stageName; // before the undo has stages of its own
    });
    const work = async (): Promise<ObjectId> => {
      try {
        const id = await make({ signal, stage: enter, isWanted });
        // The last one may have left while the record was written.
        if (!isWanted()) await this.#backend.setClaimed(id, false);
        return id;
      } catch (err) {
        if (signal.aborted && !controller.signal.aborted && !this.#options.signal.aborted) {
          throw new CriError('deadlineExceeded', `${request.what}: undone, since ${stuckIn} did not finish within ${timeoutMs / 1000} s`, {
            cause: err,
          });
        }
        throw err;
      } finally {
        this.#flights.delete(request.key);
      }
    };
    const started = Promise.withResolvers<ObjectId>();
    const flight: InFlight = { request, controller, promise: started.promise, watchers, stageName: 'starting', delivered: false };
    this.#flights.set(request.key, flight);
    started.promise.catch((err: unknown) => {
      if (watchers.size === 0) log.warn({ reason: describeError(err), pod: request.what }, 'Failed creation that nobody waited for');
    });
    // In a later turn, so that the first caller waits already and sees every stage.
    queueMicrotask(() => void work().then(started.resolve, started.reject));
    return flight;
  }

  async #wait(flight: InFlight, signal: AbortSignal, stage: Stage): Promise<ObjectId> {
    flight.watchers.set(stage, signal);
    stage.name = flight.stageName;
    try {
      const id = await orAborted(flight.promise, signal);
      await this.#claim(id, signal, () => flight.delivered || flight.watchers.size > 1);
      flight.delivered = true;
      return id;
    } finally {
      flight.watchers.delete(stage);
    }
  }

  /** `isKnown`: somebody else was told of it, or is about to be. */
  async #claim(id: ObjectId, signal: AbortSignal, isKnown: () => boolean): Promise<void> {
    if (!signal.aborted) await this.#backend.setClaimed(id, true);
    if (!signal.aborted) return;
    if (!isKnown()) await this.#backend.setClaimed(id, false);
    throw signal.reason;
  }

  #supersedeOlder(request: CreationRequest): void {
    for (const flight of this.#flights.values()) {
      const older = flight.request.family === request.family && flight.request.attempt < request.attempt;
      if (older && flight.watchers.size === 0) flight.controller.abort(superseded(request));
    }
    for (const item of this.#backend.finished(request.family)) {
      if (!item.claimed && item.attempt < request.attempt) void this.#backend.takeDown(item.id, `superseded by attempt ${request.attempt}`);
    }
  }
}

function superseded(request: CreationRequest): CriError {
  return new CriError('cancelled', `superseded by a newer request for ${request.what}`);
}

function settled(promise: Promise<unknown>): Promise<void> {
  return promise.then(
    () => {},
    () => {},
  );
}

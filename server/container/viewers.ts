import { type Attached, type AttachedStream, attachTo } from '../../conmon/conmon.ts';

type Listener = (stream: AttachedStream, bytes: Buffer) => void;

interface Shared {
  readonly attached: Promise<Attached>;
  readonly listeners: Set<Listener>;
}

/** Connections to monitors that several clients share, one for each container. They stay until the monitor closes them. */
export class Viewers {
  readonly #shared = new Map<string, Shared>();
  readonly #signal: AbortSignal;

  /** The signal is the daemon's own: no client's leaving ends what others share. */
  constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  /** Hears the container's output from now on, until the result is disposed of. The connection itself stays. */
  async join(id: string, socket: string, listener: Listener): Promise<Disposable & { readonly attached: Attached }> {
    let shared = this.#shared.get(id);
    if (shared === undefined) {
      const listeners = new Set<Listener>();
      const attached = attachTo(socket, (stream, bytes) => listeners.forEach((hear) => void hear(stream, bytes)), {
        terminalOf: undefined,
        signal: this.#signal,
      });
      shared = { attached, listeners };
      this.#shared.set(id, shared);
      const forget = (): void => void this.#shared.delete(id);
      attached.then(({ closed }) => closed.then(forget), forget);
    }
    const attached = await shared.attached;
    const { listeners } = shared;
    listeners.add(listener);
    return { attached, [Symbol.dispose]: () => void listeners.delete(listener) };
  }
}

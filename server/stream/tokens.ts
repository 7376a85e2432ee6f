import { randomBytes } from 'node:crypto';
import { CriError } from '#base/errors.ts';

/** How long a token may wait to be used. Upstream's servers have the same. */
const LIFE_MS = 60_000;
const MAX_WAITING = 1_000;

/** What one URL stands for: taken once, and soon. The token is all that proves a client's right, so it has 128 random bits. */
export class Tokens<T> {
  /** In the order of their making, which is that of their expiry. */
  readonly #waiting = new Map<string, { readonly value: T; readonly madeMs: number }>();
  readonly #nowMs: () => number;

  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs;
  }

  /** @throws {CriError} `resourceExhausted` while 1,000 wait. */
  add(value: T): string {
    this.#dropLate();
    if (this.#waiting.size >= MAX_WAITING) {
      throw new CriError('resourceExhausted', `streaming: ${MAX_WAITING} sessions wait for their client already; try again in a minute`);
    }
    const token = randomBytes(16).toString('base64url');
    this.#waiting.set(token, { value, madeMs: this.#nowMs() });
    return token;
  }

  /** What the token was made for; `undefined` when it is unknown, late or used. */
  take(token: string): T | undefined {
    this.#dropLate();
    const found = this.#waiting.get(token);
    this.#waiting.delete(token);
    return found?.value;
  }

  #dropLate(): void {
    const oldest = this.#nowMs() - LIFE_MS;
    for (const [token, { madeMs }] of this.#waiting) {
      if (madeMs > oldest) return;
      this.#waiting.delete(token);
    }
  }
}

import { randomInt } from 'node:crypto';
import { CriError } from '#base/errors.ts';

/** Categories c0 to c1023. Source: every policy with multi-category security has so many (MCS_CATS). */
const CATEGORIES = 1024;
const PAIRS = (CATEGORIES * (CATEGORIES - 1)) / 2;

/**
 * The levels of all pods and containers. What nobody asked for is a pair of categories that is nobody else's, so that
 * one pod's processes have no access to another's files.
 */
export class SelinuxLevels {
  /** By the id of the pod or container. */
  readonly #held = new Map<string, string>();
  readonly #random: (below: number) => number;

  constructor(random: (below: number) => number = randomInt) {
    this.#random = random;
  }

  /** Notes a level that was asked for, or found in a record; others may have the same. */
  hold(id: string, level: string): void {
    this.#held.set(id, level);
  }

  /**
   * Takes a free level.
   * @param base the policy's level of containers, of which the lower sensitivity counts.
   * @throws {CriError} `resourceExhausted`.
   */
  take(id: string, base: string): string {
    const sensitivity = /^[^:-]+/.exec(base)?.[0] ?? 's0';
    const used = new Set(this.#held.values());
    const start = this.#random(PAIRS);
    for (let step = 0; step < PAIRS; step += 1) {
      const level = `${sensitivity}:${categoryPair((start + step) % PAIRS)}`;
      if (used.has(level)) continue;
      this.hold(id, level);
      return level;
    }
    throw new CriError('resourceExhausted', `all ${PAIRS} pairs of SELinux categories are taken by pods`);
  }

  /** Safe to repeat. */
  release(id: string): void {
    this.#held.delete(id);
  }
}

/** The pair with this number, counted row by row: 0 is `c0,c1`, 1 `c0,c2`. The lower category stands first, as the kernel writes it. */
export function categoryPair(number: number): string {
  let first = 0;
  let rest = number;
  for (let row = CATEGORIES - 1; rest >= row; row -= 1) {
    rest -= row;
    first += 1;
  }
  return `c${first},c${first + 1 + rest}`;
}

import { sleep } from '#base/abort.ts';

type Maybe<T> = T | undefined | null | false;

/**
 * Asks every 20 ms until `question` gives something other than undefined, null and false. What never comes ends the test with
 * `what` after 30 s: a bound on a hang, not a measurement.
 */
export async function until<T>(what: string, question: () => Maybe<T> | Promise<Maybe<T>>, timeoutMs = 30_000): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const answer = await question();
    if (answer !== undefined && answer !== null && answer !== false) return answer;
    if (performance.now() > deadline) throw new Error(`waited ${timeoutMs / 1_000} s for ${what}`);
    await sleep(20);
  }
}

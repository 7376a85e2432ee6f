import { createHash, randomBytes } from 'node:crypto';

/**
 * The mark of a test file: a short word that is in the name of everything it makes on the machine (temporary
 * directories, bridges, CNI networks, cgroups), so that what is left over can be told from what others make meanwhile.
 * check-machine.ts sets it, before anything of the test file runs.
 */
export function mark(): string {
  process.env.BERTH_TEST_MARK ??= `bt${randomBytes(3).toString('hex')}`;
  return process.env.BERTH_TEST_MARK;
}

/** A /24 network that belongs to `name`, as its first three numbers: one of 16,384 below 10.64.0.0/10. */
export function subnetOf(name: string): string {
  const hash = createHash('sha256').update(name).digest();
  return `10.${64 + ((hash[0] ?? 0) % 64)}.${hash[1]}`;
}

import { describeError } from '#base/errors.ts';
import { CommandError, type Run } from '#base/exec.ts';
import type { Log } from '#base/log.ts';
import type { PodNetwork } from './pod-network.ts';

/**
 * Makes the kernel forget the UDP flows to a pod's host ports: a client that goes on sending would otherwise be led to the
 * address of a pod that is gone for as long as it sends. TCP flows end by themselves. Needs the program `conntrack`;
 * where that is missing it does nothing (the portmap plugin flushes too, but only when the next pod takes the port).
 */
export class Conntrack {
  readonly #run: Run;
  readonly #log: Log;
  #missing = false;

  constructor(run: Run, log: Log) {
    this.#run = run;
    this.#log = log;
  }

  /** Never rejects for what the kernel or the program says: a flow that stays is a nuisance, a pod that stays is worse. */
  async flush({ portMappings, id }: PodNetwork, signal: AbortSignal): Promise<void> {
    const ports = new Set(portMappings.filter(({ protocol, hostPort }) => protocol === 'udp' && hostPort !== 0).map(({ hostPort }) => hostPort));
    for (const port of ports) for (const family of ['ipv4', 'ipv6']) if (!this.#missing) await this.#forget(port, family, id, signal);
  }

  async #forget(port: number, family: string, id: string, signal: AbortSignal): Promise<void> {
    try {
      await this.#run('conntrack', ['-D', '-f', family, '-p', 'udp', '--orig-port-dst', String(port)], { signal, hot: true });
    } catch (err) {
      signal.throwIfAborted();
      if (!(err instanceof CommandError)) throw err;
      if (err.exitCode === undefined) {
        this.#missing = true;
        this.#log.warn({ reason: describeError(err) }, 'Cannot flush UDP flows of host ports: the program conntrack is not there');
      } else if (!err.stderr.includes('0 flow entries')) {
        this.#log.warn({ sandboxId: id, reason: describeError(err) }, 'Could not flush UDP flows of host port');
      }
    }
  }
}

import { isIP } from 'node:net';
import type { PodNetwork, PortMapping } from '../../cni/cni.ts';

/** Who holds a host port. */
export interface PortOwner {
  readonly id: string;
  /** As people read it: `8080/tcp`, or `192.0.2.1:8080/tcp`. */
  readonly port: string;
}

/** The host ports of all pods that are, or may still be, on the network. */
export class HostPorts {
  /** By `8080/tcp`: addresses and who holds them. */
  readonly #held = new Map<string, { readonly id: string; readonly hostIP: string }[]>();

  /** Takes all of a pod's host ports, or none: then the answer is who holds the first one that is taken. */
  claim({ id, portMappings }: Pick<PodNetwork, 'id' | 'portMappings'>): PortOwner | undefined {
    const wanted = portMappings.filter(({ hostPort }) => hostPort !== 0);
    for (const mapping of wanted) {
      const owner = this.#held.get(keyOf(mapping))?.find((held) => held.id !== id && overlap(held.hostIP, mapping.hostIP));
      if (owner !== undefined) return { id: owner.id, port: mapping.hostIP === '' ? keyOf(mapping) : `${bracketed(mapping.hostIP)}:${keyOf(mapping)}` };
    }
    for (const mapping of wanted) this.#held.set(keyOf(mapping), [...(this.#held.get(keyOf(mapping)) ?? []), { id, hostIP: mapping.hostIP }]);
    return undefined;
  }

  /** Lets go of all that a pod holds; safe to repeat. */
  release(id: string): void {
    for (const [key, held] of this.#held) {
      const left = held.filter((entry) => entry.id !== id);
      if (left.length === 0) this.#held.delete(key);
      else if (left.length < held.length) this.#held.set(key, left);
    }
  }
}

function keyOf({ hostPort, protocol }: PortMapping): string {
  return `${hostPort}/${protocol}`;
}

/** No address is every address; the unspecified one of a family is all of that family. */
function overlap(one: string, other: string): boolean {
  if (one === '' || other === '' || one === other) return true;
  return isIP(one) === isIP(other) && [one, other].some((address) => address === '0.0.0.0' || address === '::');
}

function bracketed(address: string): string {
  return isIP(address) === 6 ? `[${address}]` : address;
}

import type { CniVersion } from './conf.ts';

/** A plugin's ADD result as JSON in the network's CNI version, with all that the plugin put there. */
export interface CniResult {
  readonly cniVersion: CniVersion;
  readonly [key: string]: unknown;
}

/** CNI versions whose configurations and results are understood, oldest first. */
export const CNI_VERSIONS = ['0.1.0', '0.2.0', '0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'] as const;
export type CniVersion = (typeof CNI_VERSIONS)[number];

/** One plugin's part of a network configuration: the keys named here and any others, which belong to the plugin. */
export interface PluginConf {
  /** The name of the plugin's binary. */
  readonly type: string;
  /** What the plugin takes as `runtimeConfig`. */
  readonly capabilities?: Readonly<Record<string, boolean>>;
  readonly [key: string]: unknown;
}

/** A network configuration list. A single-plugin `.conf` becomes a list of one. Plain JSON. */
export interface NetworkConf {
  readonly name: string;
  readonly cniVersion: CniVersion;
  readonly plugins: readonly PluginConf[];
}

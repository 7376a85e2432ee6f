import manifest from '../../package.json' with { type: 'json' };

/** Berth's own version, of package.json. */
export const VERSION: string = manifest.version;

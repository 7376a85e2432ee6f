/** Something that a check of the store has found wrong. */
export interface CheckFinding {
  /**
   * `missing`: an image has no such layer, or a layer no such file. `altered`: it is not what was unpacked. `damaged`: what
   * the store itself notes of it cannot be read. `orphaned`: nothing needs it.
   */
  readonly kind: 'missing' | 'altered' | 'damaged' | 'orphaned';
  readonly what: 'layer' | 'image';
  /** Chain id of the layer, id of the image; for an orphan its path below the store's root. */
  readonly id: string;
  /** For people: what is wrong, with the first file that is. */
  readonly message: string;
  /** Names, or else ids, of the images that this costs. */
  readonly images: readonly string[];
  /** It is gone, and so are those images; the next pull brings them anew. */
  readonly repaired: boolean;
}

export interface CheckSummary {
  /** How many were looked at. */
  readonly layers: number;
  readonly images: number;
  readonly findings: number;
  /** Names, or else ids, of the images that the repair has removed. */
  readonly removedImages: readonly string[];
}

export interface CheckOptions {
  /** Reads every file of every layer; else only what can be told without. */
  readonly full: boolean;
  /** Removes what is orphaned, and bad layers with the images that they belong to, unless somebody uses one of those. */
  readonly repair: boolean;
  readonly signal: AbortSignal;
}

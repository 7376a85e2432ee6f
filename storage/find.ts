import { CriError } from '#base/errors.ts';
import type { ImageId } from './digest.ts';
import type { Image } from './image.ts';
import type { ImageStore } from './image-store.ts';
import { type ImageReference, parseReference, repositoryName } from './reference.ts';
import type { RegistriesConf } from './registries-conf.ts';

/** Shorter prefixes of an id are too likely to be meant as a name. */
const MIN_PREFIX = 3;

/** The image by its id (whole, or a prefix that only one has, with or without `sha256:`) or by a name, short or whole. */
export function findImage(images: ImageStore, conf: RegistriesConf, nameOrId: string): Image | undefined {
  const hex = /^(?:sha256:)?([0-9a-f]{1,64})$/.exec(nameOrId)?.[1];
  if (hex?.length === 64) return images.get(`sha256:${hex}` as ImageId);
  for (const name of namesOf(conf, nameOrId)) {
    const repository = repositoryName(name);
    const found = name.digest === undefined ? images.byTag(`${repository}:${name.tag}`) : images.byDigest(`${repository}@${name.digest}`);
    if (found !== undefined) return found;
  }
  return hex === undefined || hex.length < MIN_PREFIX ? undefined : images.byPrefix(hex);
}

function namesOf(conf: RegistriesConf, text: string): ImageReference[] {
  try {
    return conf.candidates(parseReference(text));
  } catch (err) {
    if (err instanceof CriError) return []; // no name of any image
    throw err;
  }
}

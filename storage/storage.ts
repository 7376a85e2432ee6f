import { CriError } from '#base/errors.ts';
import type { Log } from '#base/log.ts';
import type { ImageId } from './digest.ts';
import type { Image } from './image.ts';

export type { ChainId, Digest, ImageId } from './digest.ts';
export type { Image, ImageConfig } from './image.ts';

/** Credentials as the CRI's AuthConfig brings them; empty strings where it says nothing. */
export interface RegistryAuth {
  readonly username: string;
  readonly password: string;
  /** base64 of `user:password`. */
  readonly auth: string;
  readonly serverAddress: string;
  readonly identityToken: string;
  readonly registryToken: string;
}

export interface StorageOptions {
  readonly root: string;
  readonly log: Log;
  readonly registriesConf: string;
  readonly globalAuthFile: string;
  readonly maxParallelDownloads: number;
  readonly pullProgressTimeoutMs: number;
  readonly pinnedImages: readonly string[];
  readonly proxyEnv?: Readonly<Record<string, string>>;
  readonly observe?: { layerPulled(bytes: number): void; pulled(outcome: 'success' | 'failure', seconds: number): void };
}

export class Storage implements AsyncDisposable {
  static open(_options: StorageOptions): Promise<Storage> {
    throw later();
  }
  pull(_reference: string, _options: { auth?: RegistryAuth; signal: AbortSignal }): Promise<Image> {
    throw later();
  }
  load(_path: string, _options: { signal: AbortSignal; name?: string }): Promise<Image[]> {
    throw later();
  }
  images(): readonly Image[] {
    throw later();
  }
  find(_nameOrId: string): Image | undefined {
    throw later();
  }
  remove(_image: ImageId, _options: { signal: AbortSignal }): Promise<void> {
    throw later();
  }
  fsInfo(): { mountpoint: string; usedBytes: number; inodesUsed: number } {
    throw later();
  }
  lowerDirs(_image: ImageId): string[] {
    throw later();
  }
  createRootfs(_containerDir: string): Promise<void> {
    throw later();
  }
  mountRootfs(_image: ImageId, _containerDir: string, _target: string, _options: { volatile?: boolean } = {}): Promise<void> {
    throw later();
  }
  unmountRootfs(_target: string): Promise<void> {
    throw later();
  }
  writableUsage(_containerDir: string, _signal: AbortSignal): Promise<{ usedBytes: number; inodesUsed: number }> {
    throw later();
  }
  [Symbol.asyncDispose](): Promise<void> {
    throw later();
  }
}

/** `exact`, `prefix*` or `*keyword*`. */
export function matchesPin(_name: string, _patterns: readonly string[]): boolean {
  throw later();
}

function later(): CriError {
  return new CriError('unimplemented', 'storage is not there yet');
}

import type { ServiceDefinition } from '@grpc/grpc-js';
import { fromJSON } from '@grpc/proto-loader';
import descriptor from './cri.json' with { type: 'json' };

/**
 * The two services of CRI v1 for grpc-js. Field names stay as in api.proto, absent scalars have their default, absent
 * messages are null, 64-bit integers are decimal strings and enums numbers: the types in cri.ts say the same.
 */
export function loadCri(): { readonly RuntimeService: ServiceDefinition; readonly ImageService: ServiceDefinition } {
  const definitions = fromJSON(descriptor as Parameters<typeof fromJSON>[0], { keepCase: true, longs: String, enums: Number, defaults: true });
  return {
    RuntimeService: definitions['runtime.v1.RuntimeService'] as ServiceDefinition,
    ImageService: definitions['runtime.v1.ImageService'] as ServiceDefinition,
  };
}

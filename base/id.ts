import { randomBytes } from 'node:crypto';

/** 64 lower-case hex digits. Log shippers parse them, and the kubelet takes what follows the last dash, so no dashes. */
export type ObjectId = string & { readonly __brand: 'ObjectId' };

/** A new random id of 32 bytes. */
export function newId(): ObjectId {
  return randomBytes(32).toString('hex') as ObjectId;
}

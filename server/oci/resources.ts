import type { LinuxContainerResources } from '../../proto/cri.ts';
import type { HostFacts } from './host-facts.ts';
import type { OciResources } from './spec.ts';

/** @throws {CriError} `invalidArgument` naming the field below `field` (`config.linux.resources`). Used by CreateContainer and UpdateContainerResources. */
export function validateResources(_field: string, _resources: LinuxContainerResources | null, _host: HostFacts): void {
  throw new Error('not written yet');
}

/** What is set in the request, in the runtime's terms; zero means not set. No devices and no pids in it. */
export function toOciResources(_resources: LinuxContainerResources | null, _host: HostFacts): OciResources {
  throw new Error('not written yet');
}

import { VERSION } from './cli/version.ts';
import { StatsCollector } from './container/stats.ts';
import type { WritableLayerUsage } from './container/writable-usage.ts';
import type { Creations } from './creation.ts';
import type { Parts } from './parts.ts';
import * as containerRpcs from './rpc/container.ts';
import { attach, exec, execSync } from './rpc/exec.ts';
import * as imageRpcs from './rpc/image.ts';
import { portForward } from './rpc/port-forward.ts';
import * as runtimeRpcs from './rpc/runtime.ts';
import * as sandboxRpcs from './rpc/sandbox.ts';
import * as statsRpcs from './rpc/stats.ts';
import type { Handlers } from './service.ts';

export interface HandlerDeps {
  readonly podCreations: Creations;
  readonly containerCreations: Creations;
  readonly writable: WritableLayerUsage;
  /** Why the runtime is not ready; empty when it is. */
  readonly problems: () => string[];
}

/** Who answers which RPC. What is not here is answered as UNIMPLEMENTED. */
export function createHandlers(parts: Parts, { podCreations, containerCreations, writable, problems }: HandlerDeps): Handlers {
  const statsParts = { ...parts, collector: new StatsCollector({ stats: (path) => parts.cgroups.stats(path) }), writable };
  return {
    Version: runtimeRpcs.version(VERSION),
    RunPodSandbox: sandboxRpcs.runPodSandbox(parts, podCreations),
    StopPodSandbox: sandboxRpcs.stopPodSandbox(parts),
    RemovePodSandbox: sandboxRpcs.removePodSandbox(parts),
    PodSandboxStatus: sandboxRpcs.podSandboxStatus(parts),
    ListPodSandbox: sandboxRpcs.listPodSandbox(parts),
    StreamPodSandboxes: sandboxRpcs.streamPodSandboxes(parts),
    CreateContainer: containerRpcs.createContainer(parts, containerCreations),
    StartContainer: containerRpcs.startContainer(parts),
    StopContainer: containerRpcs.stopContainer(parts),
    RemoveContainer: containerRpcs.removeContainer(parts),
    ListContainers: containerRpcs.listContainers(parts),
    StreamContainers: containerRpcs.streamContainers(parts),
    ContainerStatus: containerRpcs.containerStatus(parts),
    UpdateContainerResources: containerRpcs.updateContainerResources(parts),
    ReopenContainerLog: containerRpcs.reopenContainerLog(parts),
    ExecSync: execSync(parts),
    Exec: exec(parts),
    Attach: attach(parts),
    PortForward: portForward(parts),
    ContainerStats: statsRpcs.containerStats(statsParts),
    ListContainerStats: statsRpcs.listContainerStats(statsParts),
    StreamContainerStats: statsRpcs.streamContainerStats(statsParts),
    PodSandboxStats: statsRpcs.podSandboxStats(statsParts),
    ListPodSandboxStats: statsRpcs.listPodSandboxStats(statsParts),
    StreamPodSandboxStats: statsRpcs.streamPodSandboxStats(statsParts),
    UpdatePodSandboxResources: sandboxRpcs.updatePodSandboxResources(parts),
    UpdateRuntimeConfig: runtimeRpcs.updateRuntimeConfig(parts),
    Status: runtimeRpcs.status(parts, { problems }),
    RuntimeConfig: runtimeRpcs.runtimeConfig(parts),
    ListImages: imageRpcs.listImages(parts),
    StreamImages: imageRpcs.streamImages(parts),
    ImageStatus: imageRpcs.imageStatus(parts),
    PullImage: imageRpcs.pullImage(parts),
    RemoveImage: imageRpcs.removeImage(parts),
    ImageFsInfo: imageRpcs.imageFsInfo({ ...parts, writable }),
  };
}

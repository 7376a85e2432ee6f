import type { Server, UntypedServiceImplementation } from '@grpc/grpc-js';
import { CriError } from '#base/errors.ts';
import type { Log } from '#base/log.ts';
import type { RpcName, Rpcs } from '../proto/cri.ts';
import { loadCri } from '../proto/load.ts';
import { type CallOptions, type Handler, type StreamHandler, serverStream, unary } from './call.ts';

interface Shape<Name extends RpcName> {
  readonly service: Rpcs[Name]['service'];
  readonly stream: Rpcs[Name]['stream'];
  /** Called again and again by the kubelet without changing anything: its success is logged at debug. */
  readonly quiet: boolean;
}

/** All RPCs of CRI v1, in the order of api.proto. */
export const rpcs = {
  Version: { service: 'RuntimeService', stream: false, quiet: true },
  RunPodSandbox: { service: 'RuntimeService', stream: false, quiet: false },
  StopPodSandbox: { service: 'RuntimeService', stream: false, quiet: false },
  RemovePodSandbox: { service: 'RuntimeService', stream: false, quiet: false },
  PodSandboxStatus: { service: 'RuntimeService', stream: false, quiet: true },
  ListPodSandbox: { service: 'RuntimeService', stream: false, quiet: true },
  StreamPodSandboxes: { service: 'RuntimeService', stream: true, quiet: true },
  CreateContainer: { service: 'RuntimeService', stream: false, quiet: false },
  StartContainer: { service: 'RuntimeService', stream: false, quiet: false },
  StopContainer: { service: 'RuntimeService', stream: false, quiet: false },
  RemoveContainer: { service: 'RuntimeService', stream: false, quiet: false },
  ListContainers: { service: 'RuntimeService', stream: false, quiet: true },
  StreamContainers: { service: 'RuntimeService', stream: true, quiet: true },
  ContainerStatus: { service: 'RuntimeService', stream: false, quiet: true },
  UpdateContainerResources: { service: 'RuntimeService', stream: false, quiet: false },
  ReopenContainerLog: { service: 'RuntimeService', stream: false, quiet: false },
  ExecSync: { service: 'RuntimeService', stream: false, quiet: true }, // exec probes: every second or so for each container
  Exec: { service: 'RuntimeService', stream: false, quiet: false },
  Attach: { service: 'RuntimeService', stream: false, quiet: false },
  PortForward: { service: 'RuntimeService', stream: false, quiet: false },
  ContainerStats: { service: 'RuntimeService', stream: false, quiet: true },
  ListContainerStats: { service: 'RuntimeService', stream: false, quiet: true },
  StreamContainerStats: { service: 'RuntimeService', stream: true, quiet: true },
  PodSandboxStats: { service: 'RuntimeService', stream: false, quiet: true },
  ListPodSandboxStats: { service: 'RuntimeService', stream: false, quiet: true },
  StreamPodSandboxStats: { service: 'RuntimeService', stream: true, quiet: true },
  UpdateRuntimeConfig: { service: 'RuntimeService', stream: false, quiet: false },
  Status: { service: 'RuntimeService', stream: false, quiet: true },
  CheckpointContainer: { service: 'RuntimeService', stream: false, quiet: false },
  CheckpointPod: { service: 'RuntimeService', stream: false, quiet: false },
  RestorePod: { service: 'RuntimeService', stream: false, quiet: false },
  GetContainerEvents: { service: 'RuntimeService', stream: true, quiet: false },
  ListMetricDescriptors: { service: 'RuntimeService', stream: false, quiet: true },
  ListPodSandboxMetrics: { service: 'RuntimeService', stream: false, quiet: true },
  StreamPodSandboxMetrics: { service: 'RuntimeService', stream: true, quiet: true },
  RuntimeConfig: { service: 'RuntimeService', stream: false, quiet: true },
  UpdatePodSandboxResources: { service: 'RuntimeService', stream: false, quiet: false },
  ListImages: { service: 'ImageService', stream: false, quiet: true },
  StreamImages: { service: 'ImageService', stream: true, quiet: true },
  ImageStatus: { service: 'ImageService', stream: false, quiet: true },
  PullImage: { service: 'ImageService', stream: false, quiet: false },
  RemoveImage: { service: 'ImageService', stream: false, quiet: false },
  ImageFsInfo: { service: 'ImageService', stream: false, quiet: true },
} as const satisfies { readonly [Name in RpcName]: Shape<Name> };

type HandlerOf<Name extends RpcName> = Rpcs[Name]['stream'] extends true ? StreamHandler<Name> : Handler<Name>;

/** The RPCs a daemon answers; the others are answered UNIMPLEMENTED, which the kubelet knows how to live with. */
export type Handlers = { readonly [Name in RpcName]?: HandlerOf<Name> };

export interface Services {
  /** Adds both services to a server. */
  register(server: Server): void;
  /** Calls whose work has not ended yet, answered or not. */
  readonly running: number;
  /**
   * Ends the streams, refuses new calls with UNAVAILABLE, and resolves when the work of all others has ended. How long to
   * wait is the caller's to decide. Safe to repeat.
   */
  drain(): Promise<void>;
}

/** Wraps the handlers, with the bookkeeping that a graceful stop needs. */
export function buildServices(handlers: Handlers, { log, observe }: { readonly log: Log; readonly observe: CallOptions['observe'] }): Services {
  const running = new Set<Promise<unknown>>();
  const stopping = new AbortController();
  const track = (work: Promise<unknown>): void => {
    running.add(work);
    void work.finally(() => running.delete(work));
  };
  const implementations: Record<Rpcs[RpcName]['service'], UntypedServiceImplementation> = { RuntimeService: {}, ImageService: {} };
  for (const name of Object.keys(rpcs) as RpcName[]) {
    const { service, stream, quiet } = rpcs[name];
    const options: CallOptions = { log, observe, quiet, track, ...(stream && { stopping: stopping.signal }) };
    const handler = handlers[name] ?? unimplemented(name);
    implementations[service][name] = stream
      ? serverStream(name, handler as StreamHandler<RpcName>, options)
      : unary(name, gate(handler as Handler<RpcName>), options);
  }
  // Between GOAWAY and the close of its connection a client may still send a call: it must not start what nobody awaits.
  function gate(handler: Handler<RpcName>): Handler<RpcName> {
    return (request, call) => {
      stopping.signal.throwIfAborted();
      return handler(request, call);
    };
  }
  return {
    register(server) {
      const definitions = loadCri();
      server.addService(definitions.RuntimeService, implementations.RuntimeService);
      server.addService(definitions.ImageService, implementations.ImageService);
    },
    get running() {
      return running.size;
    },
    async drain() {
      stopping.abort(new CriError('unavailable', 'berth is stopping'));
      while (running.size > 0) await Promise.all(running);
    },
  };
}

function unimplemented(name: RpcName): () => Promise<never> {
  return () => Promise.reject(new CriError('unimplemented', `${name} is not implemented by this version of Berth`));
}

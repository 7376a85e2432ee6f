import { posix } from 'node:path';
import { CriError } from '#base/errors.ts';
import type { ContainerConfig } from '../../proto/cri.ts';
import { appArmorProfile } from './apparmor-profile.ts';
import { type ContainerSpecInput, type ImageConfig, type ResolvedContainer, SECURITY } from './container-input.ts';
import { buildEnvironment } from './environment.ts';
import type { HostFacts } from './host-facts.ts';
import type { OciCapabilities, OciProcess } from './spec.ts';

/** What only the whole spec decides about its process. */
interface ProcessParts {
  readonly capabilities: OciCapabilities;
  readonly oomScoreAdj: number;
}

/** Who runs what, where, and with which rights. */
export function containerProcess(input: ContainerSpecInput, { user, cdi }: ResolvedContainer, { capabilities, oomScoreAdj }: ProcessParts): OciProcess {
  const { config, image, defaults } = input;
  const security = config.linux?.security_context ?? null;
  const apparmor = security?.privileged === true ? unconfined(input.host) : appArmorProfile(SECURITY, security, input.host);
  return {
    terminal: config.tty,
    user: { uid: user.uid, gid: user.gid, additionalGids: [...new Set([...user.additionalGids, ...cdi.additionalGids])] },
    args: containerArgs(config, image),
    env: buildEnvironment({
      defaults: defaults.defaultEnv,
      image: image.env,
      request: config.envs,
      hostname: input.sandbox.hostname,
      home: user.home,
      tty: config.tty,
      devices: cdi.env,
    }),
    cwd: workingDirectory(config, image),
    capabilities,
    noNewPrivileges: security?.no_new_privs ?? false,
    oomScoreAdj,
    ...(apparmor === undefined ? {} : { apparmorProfile: apparmor }),
    ...(input.labels?.process === undefined ? {} : { selinuxLabel: input.labels.process }),
    ...(defaults.defaultUlimits.length === 0 ? {} : { rlimits: defaults.defaultUlimits }),
  };
}

/**
 * The command line: command replaces the image's entrypoint and cmd, args alone replace its cmd.
 * @throws {CriError} `invalidArgument` when neither says what to run.
 */
export function containerArgs(config: Pick<ContainerConfig, 'command' | 'args'>, image: Pick<ImageConfig, 'entrypoint' | 'cmd'>): readonly string[] {
  const args = config.command.length > 0 ? [...config.command, ...config.args] : [...image.entrypoint, ...(config.args.length > 0 ? config.args : image.cmd)];
  if (args[0] === undefined || args[0] === '') throw new CriError('invalidArgument', 'config.command: is empty, and the image names no command either');
  return args;
}

/** The request's, else the image's, else `/`; always absolute. */
export function workingDirectory(config: Pick<ContainerConfig, 'working_dir'>, image: Pick<ImageConfig, 'workingDir'>): string {
  return posix.resolve('/', config.working_dir === '' ? image.workingDir : config.working_dir);
}

/** Written out, because a child otherwise keeps the daemon's own profile. */
function unconfined(host: HostFacts): string | undefined {
  return host.apparmor ? 'unconfined' : undefined;
}

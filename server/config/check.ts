import type { Config } from '../config.ts';
import type { Host } from './host.ts';
import { BUILT_IN_RUNTIMES, HANDLER_SECTION } from './keys.ts';
import type { Settings } from './settings.ts';
import { BadValue, socketPath } from './values.ts';

/** What no key can tell for itself. */
export function checkTogether({ root, runroot, api, runtime, image }: Config, settings: Settings, host: Host): void {
  const { runtimes, defaultRuntime, conmon, seccompProfile } = runtime;
  const names = Object.keys(runtimes);
  if (names.length === 0)
    settings.refuse('runtime', 'default_runtime', `neither ${BUILT_IN_RUNTIMES.join(' nor ')} is on PATH and no [${HANDLER_SECTION}NAME] is set`);
  else if (runtimes[defaultRuntime] === undefined)
    settings.refuse('runtime', 'default_runtime', `"${defaultRuntime}" is none of the handlers ${names.join(', ')}`);
  if (!host.isExecutable(conmon)) settings.refuse('runtime', 'conmon', `${conmon} is not an executable file`);
  if (seccompProfile !== '' && !host.isFile(seccompProfile)) settings.refuse('runtime', 'seccomp_profile', `${seccompProfile} is not a file`);
  if (settings.placeOf('image', 'pause_binary') !== undefined && !host.isExecutable(image.pauseBinary)) {
    settings.refuse('image', 'pause_binary', `${image.pauseBinary} is not an executable file`);
  }
  for (const [key, file] of [
    ['stream_tls_cert', api.streamTlsCert],
    ['stream_tls_key', api.streamTlsKey],
    ['stream_tls_ca', api.streamTlsCa],
  ] as const) {
    if (file !== '' && !host.isFile(file)) settings.refuse('api', key, `${file} is not a file`);
    else if (file === '' && api.streamEnableTls && key !== 'stream_tls_ca')
      settings.refuse('api', key, 'must be set with stream_enable_tls', settings.placeOf('api', 'stream_enable_tls'));
  }
  if (root === runroot) settings.refuse('berth', 'runroot', `"${runroot}" is root as well; one survives a reboot and the other must not`);
  for (const [key, path] of [
    ['listen', api.listen],
    ['admin socket', `${runroot}/admin.sock`],
  ] as const) {
    try {
      socketPath(path);
    } catch (err) {
      if (!(err instanceof BadValue)) throw err;
      if (key === 'listen') settings.refuse('api', key, err.message, settings.placeOf('api', key) ?? settings.placeOf('berth', 'runroot'));
      else settings.refuse('berth', 'runroot', err.message);
    }
  }
}

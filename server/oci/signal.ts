import { constants } from 'node:os';
import { Signal } from '../../proto/cri.ts';

/** glibc's real-time range: the first two of the kernel's are its own. Source: signal(7). */
const SIGRTMIN = 34;
const SIGRTMAX = 64;
const SIGTERM = 15;

/** SIGCLD is System V's name of SIGCHLD, which Node does not list. */
const NUMBERS: Readonly<Record<string, number>> = { ...constants.signals, SIGCLD: constants.signals.SIGCHLD };

/** The number of a CRI `Signal`; `undefined` for SIGNAL_RUNTIME_DEFAULT and for values that the API does not have. */
export function criSignalNumber(signal: number): number | undefined {
  const key = (Object.keys(Signal) as (keyof typeof Signal)[]).find((name) => Signal[name] === signal);
  // Only the numbers of this enum are stable, its names changed with CRI 1.37; here they are this repository's own.
  return key === undefined ? undefined : parseSignal(key.replace('SIGNAL_', '').replace('PLUS', '+').replace('MINUS', '-'));
}

/** The CRI `Signal` of a number, for ContainerStatus.stop_signal; SIGNAL_RUNTIME_DEFAULT where the API has none. */
export function criSignal(number: number): Signal {
  return Object.values(Signal).find((signal) => criSignalNumber(signal) === number) ?? Signal.SIGNAL_RUNTIME_DEFAULT;
}

/**
 * The number of an image's StopSignal: `SIGTERM`, `term`, `15`, `SIGRTMIN+3`.
 * `undefined` when empty or unknown. Source: image-spec config.md, StopSignal.
 */
export function parseSignal(text: string): number | undefined {
  if (/^\d{1,2}$/.test(text)) return inRange(Number(text));
  const name = text.toUpperCase().replace(/^(?!SIG)/, 'SIG');
  const realTime = /^SIGRT(MIN|MAX)(?:([+-])(\d{1,2}))?$/.exec(name);
  if (realTime === null) return Object.hasOwn(NUMBERS, name) ? NUMBERS[name] : undefined;
  const number = (realTime[1] === 'MIN' ? SIGRTMIN : SIGRTMAX) + (realTime[2] === '-' ? -1 : 1) * Number(realTime[3] ?? 0);
  return number >= SIGRTMIN ? inRange(number) : undefined;
}

/** The number to stop a container with: the request's, else the image's, else SIGTERM. */
export function stopSignalNumber(requested: number, image: string): number {
  return criSignalNumber(requested) ?? parseSignal(image) ?? SIGTERM;
}

function inRange(number: number): number | undefined {
  return number >= 1 && number <= SIGRTMAX ? number : undefined;
}

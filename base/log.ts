import { type DestinationStream, type Logger, pino, stdTimeFunctions } from 'pino';

/**
 * Berth's log. Messages are constant, in the past tense, and name the kind of thing: `Stopped sandbox`. What varies
 * goes into these keys and no others: rpc sandboxId containerId image pod err pid path exitCode durationMs, and
 * `step` `stage` `network` `handler` `count` `signal` `config` `reason` where one of those is the subject.
 */
export type Log = Pick<Logger, 'debug' | 'info' | 'warn' | 'error' | 'child'>;

export type LogLevel = 'debug' | 'info' | 'warn' | 'error';

/** The daemon's log, one JSON object a line. Credentials are kept out by never logging requests; `redact` is the net. */
export function createLog(level: LogLevel, destination?: DestinationStream): Log {
  const options = {
    level,
    base: null,
    timestamp: stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    redact: { paths: ['auth', '*.auth', 'password', '*.password', 'envs', '*.envs'], censor: '[redacted]' },
  };
  return destination === undefined ? pino(options) : pino(options, destination);
}

/** A log that says nothing, for tests and one-shot commands. */
export const silentLog: Log = pino({ level: 'silent' });

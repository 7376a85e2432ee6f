import { type DestinationStream, type LogFn, type Logger, pino, stdTimeFunctions } from 'pino';

/**
 * Berth's log. Messages are constant, in the past tense, and name the kind of thing: `Stopped sandbox`. What varies
 * goes into these keys and no others: rpc sandboxId containerId image pod err pid path exitCode durationMs, and
 * `step` `stage` `network` `handler` `count` `signal` `config` `reason` where one of those is the subject.
 */
export type Log = Pick<Logger, 'debug' | 'info' | 'warn' | 'error' | 'child'>;

export type LogLevel = 'debug' | 'info' | 'warn' | 'error';

/** A log whose level can change, for all that was made of it too. */
export interface LeveledLog extends Log {
  setLevel(level: LogLevel): void;
}

/** pino's numbers. */
const LEVELS: Readonly<Record<LogLevel, number>> = { debug: 20, info: 30, warn: 40, error: 50 };

/** The daemon's log, one JSON object a line. Credentials are kept out by never logging requests; `redact` is the net. */
export function createLog(level: LogLevel, destination?: DestinationStream): LeveledLog {
  let least = LEVELS[level];
  const options = {
    level: 'debug',
    // A level of pino's own would not reach the loggers that were made of this one before.
    hooks: {
      logMethod(this: Logger, args: Parameters<LogFn>, method: LogFn, number: number): void {
        if (number >= least) method.apply(this, args);
      },
    },
    base: null,
    timestamp: stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    redact: { paths: ['auth', '*.auth', 'password', '*.password', 'envs', '*.envs'], censor: '[redacted]' },
  };
  const log = destination === undefined ? pino(options) : pino(options, destination);
  return Object.assign(log, {
    setLevel: (next: LogLevel): void => {
      least = LEVELS[next];
    },
  });
}

/** A log that says nothing, for tests and one-shot commands. */
export const silentLog: Log = pino({ level: 'silent' });

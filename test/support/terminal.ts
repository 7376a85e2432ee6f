import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { until } from './wait.ts';

/** A command in a real terminal, as a person has it before them. Disposing kills it. */
export interface Terminal extends AsyncDisposable {
  /** All that the terminal has shown, with its control sequences. */
  readonly shown: () => string;
  readonly type: (text: string) => void;
  readonly resize: (width: number, height: number) => void;
  /** Types, and waits until what is shown after that matches; returns it. */
  readonly answer: (text: string, expected: RegExp) => Promise<string>;
  /** Fulfils with the exit code. */
  readonly ended: Promise<number | null>;
}

export function openTerminal(file: string, args: readonly string[], { width = 80, height = 24, cwd = '/' } = {}): Terminal {
  const child: ChildProcess = spawn('python3', [join(import.meta.dirname, 'terminal.py'), String(width), String(height), file, ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
    cwd,
  });
  const chunks: Buffer[] = [];
  child.stdout?.on('data', (chunk: Buffer) => chunks.push(chunk));
  child.stdin?.on('error', () => {}); // it has ended
  const ended = new Promise<number | null>((resolve) => child.once('close', (code) => resolve(code)));
  const shown = (): string => Buffer.concat(chunks).toString();
  const tell = (order: object): void => void child.stdin?.write(`${JSON.stringify(order)}\n`);
  const type = (text: string): void => tell({ type: text });
  return {
    shown,
    type,
    resize: (width, height) => tell({ resize: [width, height] }),
    answer: async (text, expected) => {
      const before = shown().length;
      type(text);
      return until(`${expected} after ${JSON.stringify(text)}`, () => {
        const since = shown().slice(before);
        return expected.test(since) ? since : undefined;
      }).catch((err: Error) => {
        throw new Error(`${err.message}; shown was ${JSON.stringify(shown().slice(before))}`);
      });
    },
    ended,
    [Symbol.asyncDispose]: async () => {
      child.kill('SIGKILL'); // the terminal hangs up, which ends the command
      await ended;
    },
  };
}

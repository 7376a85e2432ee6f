import type { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { quote } from '#base/errors.ts';
import { Pipe } from '#base/pipe.ts';
import type { RemoteSession } from '../stream/session.ts';
import { checkExec, notStarted, startRuntime } from './exec.ts';
import { drain, Output, Pump } from './exec-output.ts';
import { Scratch } from './exec-scratch.ts';
import type { ExecTarget } from './exec-target.ts';
import { setOomScore } from './exec-tree.ts';
import { watchExec } from './exec-watch.ts';

/** Between looks whether the command has begun. */
const LOOK_MS = 5;
/** Of what the runtime prints before that. */
const MAX_WORDS_BYTES = 64 * 1024;

/**
 * Runs a command without a terminal for a client, on pipes that hold the command back when the client is slow. When the
 * client goes, the command and all that it started are killed. What the command leaves in the background with its pipes
 * is heard for a moment, then not any more.
 * @returns the exit code.
 * @throws {CriError} as `execSync`.
 */
export async function execSession(target: ExecTarget, command: readonly string[], session: RemoteSession): Promise<number> {
  const { signal, stdin } = session;
  const where = checkExec(target, command, signal);
  using scratch = new Scratch(target, { args: command, terminal: false });
  using inPipe = stdin === undefined ? undefined : new Pipe();
  using outPipe = new Pipe();
  using errPipe = new Pipe();
  const runtime = await startRuntime(target, scratch, { ...(inPipe === undefined ? {} : { in: inPipe }), out: outPipe, err: errPipe });
  using input = stdin === undefined || inPipe === undefined ? undefined : new Input(stdin, inPipe.writer());
  using stdout = Pump.over(outPipe, session.stdout);
  using stderr = new LateErrors(errPipe.stream(), session, () => scratch.readPid() !== undefined);
  const exitCode = await watchExec(runtime.tree, runtime.ended, {
    where,
    signal,
    timeoutMs: 0,
    command: quote(command.join(' ')),
    onBegun: (pid) => setOomScore(pid, target),
  });
  input?.stop();
  const begun = stderr.decide();
  await drain([stdout, stderr.output], signal);
  // The runtime writes the pid file once the command runs; before that the exit code and stderr are its own.
  if (exitCode !== 0 && !begun) throw notStarted(target, stderr.words());
  return exitCode;
}

/** The client's stdin on its way to a command, which may close it or end without reading it. */
class Input implements Disposable {
  readonly #from: Readable;
  readonly #to: Socket;

  constructor(from: Readable, to: Socket) {
    this.#from = from;
    this.#to = to;
    to.on('error', () => this.stop());
    from.pipe(to);
  }

  /** Nobody reads it any more: what still comes is dropped, so that the client is not stuck with it. */
  stop(): void {
    this.#from.unpipe(this.#to);
    this.#from.resume();
    this.#to.destroy();
  }

  [Symbol.dispose](): void {
    this.stop();
  }
}

/**
 * What comes on stderr is the runtime's until the command has begun, and then the command's: it waits in the pipe until
 * that is known, since a runtime's complaint becomes the status of the session.
 */
class LateErrors implements Disposable {
  readonly #stream: Socket;
  readonly #session: RemoteSession;
  readonly #begun: () => boolean;
  readonly #timer: NodeJS.Timeout;
  #output: Pump | Output | undefined;

  constructor(stream: Socket, session: RemoteSession, begun: () => boolean) {
    this.#stream = stream.pause();
    this.#session = session;
    this.#begun = begun;
    this.#timer = setInterval(() => {
      if (this.#begun()) this.decide();
    }, LOOK_MS);
  }

  /** Tells whether the command has begun. Not to be asked before that, or the runtime's end. */
  decide(): boolean {
    clearInterval(this.#timer);
    const begun = this.#output instanceof Pump || this.#begun();
    this.#output ??= begun ? Pump.of(this.#stream, this.#session.stderr) : new Output(this.#stream, MAX_WORDS_BYTES);
    this.#stream.resume();
    return begun;
  }

  get output(): Pump | Output {
    if (this.#output === undefined) throw new Error('not decided yet');
    return this.#output;
  }

  /** The runtime's. */
  words(): Buffer {
    return this.#output instanceof Output ? this.#output.bytes() : Buffer.alloc(0);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#stream.destroy();
  }
}

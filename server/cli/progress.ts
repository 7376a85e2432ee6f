import type { LayerProgress, PullProgress } from '../../storage/storage.ts';

/** Where progress is shown; `process.stderr`. */
export interface ProgressStream {
  readonly isTTY?: boolean;
  readonly columns?: number;
  readonly rows?: number;
  write(text: string): unknown;
}

export interface ProgressDisplay {
  show(progress: PullProgress): void;
  /** Nothing more will come. */
  end(): void;
}

const MIB = 1024 * 1024;
const BAR = 24;
/** How often an unmoved pull shows up among plain lines. */
const PLAIN_PAUSE_S = 10;

/** Bars that are drawn over each other on a terminal, and plain lines elsewhere. */
export function createDisplay(stream: ProgressStream): ProgressDisplay {
  return stream.isTTY === true ? new Bars(stream) : new PlainLines(stream);
}

/** A line for the whole, and below it one for each layer, cut to the terminal's size. */
export function drawBars(progress: PullProgress, { columns = 80, rows = 24 }: Pick<ProgressStream, 'columns' | 'rows'>): string[] {
  const shown = mostTelling(progress.layers, Math.max(0, rows - 2));
  const lines = [`${progress.image}: ${progress.summary}`, ...shown.map(drawLayer)];
  return lines.map((line) => line.slice(0, Math.max(1, columns - 1)));
}

function drawLayer({ digest, state, totalBytes, receivedBytes }: LayerProgress): string {
  const share = totalBytes === 0 ? 1 : Math.min(1, receivedBytes / totalBytes);
  const full = Math.floor(share * BAR);
  const bar = state === 'present' ? ''.padEnd(BAR, '-') : `${'='.repeat(full)}${full < BAR ? '>' : ''}`.padEnd(BAR);
  const size = `${mib(state === 'present' ? totalBytes : receivedBytes)}/${mib(totalBytes)} MiB`;
  return `  ${digest.slice(7, 19)} [${bar}] ${size.padStart(19)} ${state}`;
}

/** Those that move, then those that wait, then what is done, as many as there is room for; in the image's order. */
function mostTelling(layers: readonly LayerProgress[], room: number): LayerProgress[] {
  const rank = { downloading: 0, unpacking: 0, waiting: 1, done: 2, present: 3 };
  const order = [...layers].sort((a, b) => rank[a.state] - rank[b.state]);
  const chosen = new Set(order.slice(0, room));
  return layers.filter((layer) => chosen.has(layer));
}

class Bars implements ProgressDisplay {
  readonly #stream: ProgressStream;
  #drawn = 0;

  constructor(stream: ProgressStream) {
    this.#stream = stream;
  }

  show(progress: PullProgress): void {
    const lines = drawBars(progress, this.#stream);
    this.#stream.write(`${this.#back()}${lines.map((line) => `${line}\x1b[K\n`).join('')}`);
    this.#drawn = lines.length;
  }

  /** Takes the bars away: what remains to be said is the result. */
  end(): void {
    this.#stream.write(this.#back());
    this.#drawn = 0;
  }

  #back(): string {
    return this.#drawn === 0 ? '' : `\x1b[${this.#drawn}F\x1b[J`;
  }
}

class PlainLines implements ProgressDisplay {
  readonly #stream: ProgressStream;
  readonly #states = new Map<string, string>();
  #spokeAtS = 0;

  constructor(stream: ProgressStream) {
    this.#stream = stream;
  }

  show({ image, layers, summary, elapsedSeconds }: PullProgress): void {
    const lines: string[] = [];
    for (const { digest, state, totalBytes, source } of layers) {
      if (this.#states.get(digest) === state || (state === 'waiting' && !this.#states.has(digest))) continue;
      if (state === 'downloading' && source === '') continue; // known in a moment
      this.#states.set(digest, state);
      const from = state === 'downloading' ? ` from ${source}` : '';
      lines.push(`layer ${digest.slice(7, 19)} (${mib(totalBytes)} MiB): ${state}${from}`);
    }
    if (lines.length === 0 && elapsedSeconds - this.#spokeAtS < PLAIN_PAUSE_S) return;
    this.#spokeAtS = elapsedSeconds;
    this.#stream.write([...lines, `${image}: ${summary}`].map((line) => `${line}\n`).join(''));
  }

  end(): void {}
}

function mib(bytes: number): string {
  return (bytes / MIB).toFixed(1);
}

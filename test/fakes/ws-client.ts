import { once } from 'node:events';
import { WebSocket } from 'ws';

/** A client of WebSocket that collects what comes on each channel. */
export class WsClient {
  readonly ws: WebSocket;
  readonly closed: Promise<number>;
  readonly channels = new Map<number, Buffer[]>();
  messages = 0;
  readonly #base64: boolean;

  constructor(url: string, protocol?: string) {
    this.ws = new WebSocket(url, protocol === undefined ? [] : [protocol]);
    this.#base64 = protocol?.includes('base64') ?? false;
    this.closed = new Promise((resolve) => this.ws.once('close', resolve));
    this.ws.on('error', () => {});
    this.ws.on('message', (message: Buffer) => {
      this.messages += 1;
      const [first = 0] = message;
      const channel = this.#base64 ? first - 48 : first;
      const bytes = this.#base64 ? Buffer.from(message.toString('latin1', 1), 'base64') : message.subarray(1);
      this.channels.set(channel, [...(this.channels.get(channel) ?? []), bytes]);
    });
  }

  async opened(): Promise<this> {
    await once(this.ws, 'open');
    return this;
  }

  send(channel: number, bytes: string | Buffer): void {
    if (this.#base64) this.ws.send(`${channel}${Buffer.from(bytes).toString('base64')}`);
    else this.ws.send(Buffer.concat([Buffer.from([channel]), Buffer.from(bytes)]));
  }

  text(channel: number): string {
    return Buffer.concat(this.channels.get(channel) ?? []).toString();
  }
}

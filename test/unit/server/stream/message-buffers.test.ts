import { expect, test } from 'vitest';
import { MessageBuffers } from '../../../../server/stream/message-buffers.ts';

const of = (buffers: MessageBuffers, length: number, byte: number) => buffers.make(length, (message) => void message.fill(byte));

test('MessageBuffers: memory is used again once it is released, and not before', () => {
  const buffers = new MessageBuffers();
  const [one, two] = [of(buffers, 10, 1), of(buffers, 64 * 1024 + 8, 2)];
  expect([one.message, two.message]).toEqual([Buffer.alloc(10, 1), Buffer.alloc(64 * 1024 + 8, 2)]);
  expect(two.message.buffer).not.toBe(one.message.buffer);
  one.release();
  const three = of(buffers, 20, 3);
  expect(three.message.buffer).toBe(one.message.buffer);
  expect(two.message).toEqual(Buffer.alloc(64 * 1024 + 8, 2));
});

test('MessageBuffers: a message of any length is made, but what is longer than the others is not kept', () => {
  const buffers = new MessageBuffers();
  const long = of(buffers, 1024 * 1024, 1);
  expect(long.message).toHaveLength(1024 * 1024);
  long.release();
  expect(of(buffers, 10, 2).message.buffer).not.toBe(long.message.buffer);
});

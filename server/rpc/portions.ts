/** Items in one message: some 100 KiB, far from the kubelet's limit of 16 MiB, and few enough messages. */
const PORTION = 100;

/**
 * Sends a list as the streaming list RPCs want it: each item once, in messages of some, the next one only when the client
 * takes more; an empty list is a stream without a message. The items are turned into messages as they go out, so that a
 * long list holds up nobody else.
 */
export async function sendPortions<Item, Message>(
  items: readonly Item[],
  messageOf: (portion: readonly Item[]) => Message | Promise<Message>,
  send: (message: Message) => Promise<void>,
): Promise<void> {
  for (let at = 0; at < items.length; at += PORTION) await send(await messageOf(items.slice(at, at + PORTION)));
}

/**
 * As much of HPACK (RFC 7541) as it takes to find `:authority` in a header block and to give it a value that an HTTP/2
 * server accepts. The value keeps its length, so that the entry it makes in the dynamic table has the size the client
 * reckons with (RFC 7541, 4.1), and the tables of both ends stay in step.
 */

const authorityIndex = 1; // RFC 7541, appendix A

/** ":authority" as a literal name: plain, and in Huffman's code. */
const authorityNames = ['3a617574686f72697479', 'b83b5339ec327d7f'];

/** What nghttp2 lets pass in an authority; every other octet is replaced by a hyphen. */
const refused = /[^!$%&'()*+,\-.0-9:;=@A-Z[\]_a-z~]/g;

/**
 * The length of each symbol's Huffman code (RFC 7541, appendix B): `A` is 5 bits, `Z` 30. The code is canonical, so its
 * lengths are all there is to know.
 */
const codeLengths =
  'ISXXXXXXXTZXXZXXXXXXXXZXXXXXXXXXBFFHIBDGFFDGDBBBAAABBBBBBBCDKBHFIBCCCCCCCCCCCCCCCCCCCCCCDCDIOIJBKABABABBBACCBBBABCBAABCCCCCKGJIX' +
  'PRPPRRRSRSSSSSTSTTRSTSSSSQRSRSSTRQPRRSSQSRRTQRSSQQRQSRSSPRRRSRRSVVPORSRUVVVWWVTUOQVWWVWTQQVVXWWWPTPQRQQSRRUUTTVSVWVVWWWWWXWWWWWVZ';

const endOfString = 256;

/** The symbols of each code length, in the order of their codes. */
const symbolsOfLength: readonly (readonly number[])[] = Array.from({ length: 31 }, (_, bits) =>
  [...codeLengths].flatMap((letter, symbol) => (letter.charCodeAt(0) - 0x41 + 5 === bits ? [symbol] : [])),
);

/** The block is no valid HPACK. */
class Malformed extends Error {}

/** The same block when there is nothing to replace, or when it is malformed: refusing that is the server's part. */
export function cleanAuthority(block: Buffer): Buffer {
  const parts: Buffer[] = [];
  let kept = 0;
  try {
    for (const value of authorities(block)) {
      const text = value.huffman ? decodeHuffman(block.subarray(value.start, value.end)) : block.toString('latin1', value.start, value.end);
      const clean = text.replaceAll(refused, '-');
      if (clean === text) continue;
      parts.push(block.subarray(kept, value.at), literal(clean));
      kept = value.end;
    }
  } catch (err) {
    if (err instanceof Malformed) return block;
    throw err;
  }
  return kept === 0 ? block : Buffer.concat([...parts, block.subarray(kept)]);
}

/** Where a string lies in a block: its first octet with the length at `at`, its text from `start` to `end`. */
interface Text {
  readonly at: number;
  readonly start: number;
  readonly end: number;
  readonly huffman: boolean;
}

/**
 * The values of the `:authority` fields that a block spells out. A name given by reference to the dynamic table is not
 * looked up: encoders take the static table's entry where there is one.
 */
function* authorities(block: Buffer): Generator<Text> {
  let at = 0;
  while (at < block.length) {
    const first = block.readUInt8(at);
    if (first >= 0x80) {
      at = readInteger(block, at, 7).end; // an indexed field
    } else if (first >= 0x20 && first < 0x40) {
      at = readInteger(block, at, 5).end; // a new size of the dynamic table
    } else {
      const index = readInteger(block, at, first >= 0x40 ? 6 : 4); // a literal value
      const name = index.value === 0 ? readText(block, index.end) : undefined;
      const value = readText(block, name?.end ?? index.end);
      const isAuthority = name === undefined ? index.value === authorityIndex : authorityNames.includes(nameOf(block, name));
      if (isAuthority) yield value;
      at = value.end;
    }
  }
}

/** A literal name as in `authorityNames`: a Huffman code is told from plain text by the high bit of its first octet. */
function nameOf(block: Buffer, name: Text): string {
  return block.toString('hex', name.start, name.end);
}

/** RFC 7541, 5.1. No integer here is longer than a block, so four octets of continuation are plenty. */
function readInteger(block: Buffer, at: number, prefixBits: number): { readonly value: number; readonly end: number } {
  const mask = (1 << prefixBits) - 1;
  let value = octet(block, at) & mask;
  let end = at + 1;
  if (value < mask) return { value, end };
  for (let shift = 0; shift <= 21; shift += 7) {
    const next = octet(block, end);
    end += 1;
    value += (next & 0x7f) << shift;
    if (next < 0x80) return { value, end };
  }
  throw new Malformed();
}

/** RFC 7541, 5.2. */
function readText(block: Buffer, at: number): Text {
  const { value: length, end: start } = readInteger(block, at, 7);
  const end = start + length;
  if (end > block.length) throw new Malformed();
  return { at, start, end, huffman: octet(block, at) >= 0x80 };
}

function octet(block: Buffer, at: number): number {
  const value = block[at];
  if (value === undefined) throw new Malformed();
  return value;
}

/** A plain string literal with its length. */
function literal(text: string): Buffer {
  const bytes = Buffer.from(text, 'latin1');
  if (bytes.length < 0x7f) return Buffer.concat([Buffer.of(bytes.length), bytes]);
  const head = [0x7f];
  let rest = bytes.length - 0x7f;
  for (; rest >= 0x80; rest >>>= 7) head.push((rest & 0x7f) | 0x80);
  return Buffer.concat([Buffer.of(...head, rest), bytes]);
}

/** RFC 7541, 5.2: symbols bit by bit; what is left at the end are fewer than eight bits, all ones. */
function decodeHuffman(bytes: Buffer): string {
  const symbols: number[] = [];
  let code = 0; // the bits since the last symbol, less the first code of that length
  let length = 0;
  let padding = true;
  for (const byte of bytes) {
    for (let shift = 7; shift >= 0; shift -= 1) {
      const bit = (byte >>> shift) & 1;
      code = code * 2 + bit;
      length += 1;
      padding &&= bit === 1;
      const here = symbolsOfLength[length];
      if (here === undefined) throw new Malformed();
      const symbol = here[code];
      if (symbol === endOfString) throw new Malformed();
      if (symbol === undefined) {
        code -= here.length;
      } else {
        symbols.push(symbol);
        code = 0;
        length = 0;
        padding = true;
      }
    }
  }
  if (length > 7 || !padding) throw new Malformed();
  return String.fromCharCode(...symbols);
}

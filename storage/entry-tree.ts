import { readFileSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import type { EntryLine, ListSeal } from './entry-list.ts';

/** One inode that a layer should have; paths that are hard links to each other share it. */
export interface Inode {
  line: Extract<EntryLine, readonly ['file' | 'directory' | 'implied' | 'symlink' | 'node' | 'whiteout', ...unknown[]]>;
  opaque: boolean;
  xattrs: Readonly<Record<string, number>>;
}

/** A name in a layer; the root has no inode of its own until the list says so. */
export interface EntryNode {
  inode: Inode | undefined;
  readonly children: Map<string, EntryNode>;
}

/**
 * Reads a layer's list into a tree of what must be there.
 * @throws {Error} when the list is not the one that was written, or makes no sense.
 */
export function readEntryTree(path: string, seal: ListSeal): EntryNode {
  const data = readFileSync(path);
  if (data.length !== seal.bytes || crc32(data) !== seal.crc) throw new Error('the list of its files is damaged');
  const root: EntryNode = { inode: undefined, children: new Map() };
  for (let start = 0; start < data.length; ) {
    const end = data.indexOf(0x0a, start);
    apply(root, JSON.parse(data.toString('utf8', start, end)) as EntryLine);
    start = end + 1;
  }
  return root;
}

function apply(root: EntryNode, line: EntryLine): void {
  if (line[0] === 'end') return;
  if (line[0] === 'removed') {
    const { parent, name } = locate(root, line[1]);
    parent.children.delete(name);
    return;
  }
  const node = line[1] === '' ? root : reach(root, line[1]);
  switch (line[0]) {
    case 'link':
      node.inode = reach(root, line[2]).inode;
      return;
    case 'opaque':
      inodeOf(node, line[1]).opaque = true;
      return;
    case 'xattrs':
      inodeOf(node, line[1]).xattrs = line[2];
      return;
    default:
      // A directory that is described again keeps what it is besides.
      node.inode =
        line[0] === 'directory' && node.inode !== undefined && isDirectory(node.inode) ? { ...node.inode, line } : { line, opaque: false, xattrs: {} };
      if (!isDirectory(node.inode)) node.children.clear();
  }
}

export function isDirectory({ line }: Inode): boolean {
  return line[0] === 'directory' || line[0] === 'implied';
}

function inodeOf(node: EntryNode, path: string): Inode {
  // The root of a layer is there without being described.
  node.inode ??= { line: ['implied', path], opaque: false, xattrs: {} };
  return node.inode;
}

function locate(root: EntryNode, path: string): { parent: EntryNode; name: string } {
  const parts = path.split('/');
  const name = parts.pop() ?? '';
  let parent = root;
  for (const part of parts) {
    const next = parent.children.get(part);
    if (next === undefined) throw new Error(`the list of its files has ${JSON.stringify(path)} without its directory`);
    parent = next;
  }
  return { parent, name };
}

function reach(root: EntryNode, path: string): EntryNode {
  const { parent, name } = locate(root, path);
  let node = parent.children.get(name);
  if (node === undefined) {
    node = { inode: undefined, children: new Map() };
    parent.children.set(name, node);
  }
  return node;
}

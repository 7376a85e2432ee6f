/** The one place with foreign calls, by what they are about; see `sys/libc.ts`. */

export { fchown, pipe, replaceDescriptor, tryLock, unblockDescriptorOf } from './sys/descriptor.ts';
export {
  chroot,
  fchdir,
  lsetxattr,
  lsetxattrAsync,
  makedev,
  mknod,
  O_PATH,
  openBelowAsync,
  openInRoot,
  readXattr,
  readXattrAsync,
  renameNoReplace,
  S_IF,
  syncfsAsync,
} from './sys/file.ts';
export { SysError } from './sys/libc.ts';
export { attachMount, cloneIdmapped, MNT, MS, mount, mountAsync, mountOverlayLong, umount, umountAsync } from './sys/mount.ts';
export { inNamespaces, type NamespaceKind, sethostname } from './sys/namespace.ts';
export { type ProcessEnd, posixSpawnAsync, reap, type SpawnRequest } from './sys/process.ts';
export { connectPackets, loopbackUpAsync, receivePackets, sendDatagram, tcpSocketIn, unixSocket } from './sys/socket.ts';

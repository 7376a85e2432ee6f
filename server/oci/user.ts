import { closeSync, constants, fstatSync, readFile } from 'node:fs';
import { promisify } from 'node:util';
import { CriError, invalidField, isErrno } from '#base/errors.ts';
import { openInRoot } from '#base/sys.ts';
import { type LinuxContainerSecurityContext, SupplementalGroupsPolicy } from '../../proto/cri.ts';
import { type GroupEntry, type PasswdEntry, parseGroup, parsePasswd, parseUserId } from './etc-passwd.ts';

/** Who the container's process is. */
export interface ResolvedUser {
  readonly uid: number;
  readonly gid: number;
  /** With the primary group first: a process keeps that one even after it changed its gid (CVE-2022-2995). */
  readonly additionalGids: readonly number[];
  /** From the image's passwd; `undefined` for a number that it does not list. */
  readonly username: string | undefined;
  /** `/` for who has none. */
  readonly home: string;
  /** The image's passwd with a line for this user, when it has the file but not the user: many programs insist on a name. */
  readonly newPasswd: Buffer | undefined;
  /** The image's group file with a line for this group, likewise. */
  readonly newGroup: Buffer | undefined;
}

const FIELD = 'config.linux.security_context';

/** A larger passwd or group is refused: it is the image's, and it is read into memory (CVE-2025-4437). */
const MAX_FILE_BYTES = 1024 * 1024;

/** A user as somebody named it: a number, a name that must be listed, or an image's text, which may be either. `subject` says in an error who. */
interface Wanted {
  readonly user: string;
  readonly userKind: 'id' | 'name' | 'either';
  readonly userSubject: string;
  readonly group: string;
  readonly groupSubject: string;
}

/**
 * The request's user, else the image's, else root; looked up in the mounted rootfs without leaving it.
 * @throws {CriError} `invalidArgument` naming the field or the image's USER.
 */
export async function resolveUser(rootfs: string, imageUser: string, security: LinuxContainerSecurityContext | null): Promise<ResolvedUser> {
  const wanted = wantedUser(imageUser, security);
  const passwd = await readInRoot(rootfs, 'etc/passwd');
  const group = await readInRoot(rootfs, 'etc/group');
  const groups = parseGroup(String(group ?? ''));
  const entry = findUser(parsePasswd(String(passwd ?? '')), wanted);
  const gid = findGroup(groups, wanted) ?? entry.gid;
  const member = memberships(groups, entry, security);
  const supplemental = (security?.supplemental_groups ?? []).map(groupNumber);
  return {
    uid: entry.uid,
    gid,
    additionalGids: [...new Set([gid, ...member, ...supplemental])],
    username: entry.name,
    home: entry.home?.startsWith('/') === true ? entry.home : '/',
    newPasswd: entry.name !== undefined || passwd === undefined ? undefined : withUser(passwd, entry.uid, gid),
    newGroup: group === undefined || groups.some((known) => known.gid === gid) ? undefined : withLine(group, `${gid}:x:${gid}:`),
  };
}

function wantedUser(imageUser: string, security: LinuxContainerSecurityContext | null): Wanted {
  const group = { group: security?.run_as_group?.value ?? '', groupSubject: `${FIELD}.run_as_group` };
  if (security?.run_as_user) return { ...group, user: security.run_as_user.value, userKind: 'id', userSubject: `${FIELD}.run_as_user` };
  if (security && security.run_as_username !== '') {
    return { ...group, user: security.run_as_username, userKind: 'name', userSubject: `${FIELD}.run_as_username` };
  }
  if (group.group !== '') throw invalidField(group.groupSubject, group.group, 'needs run_as_user or run_as_username');
  const [user = '', imageGroup = ''] = imageUser.split(':');
  return { user: user === '' ? '0' : user, userKind: 'either', userSubject: 'user of the image', group: imageGroup, groupSubject: 'group of the image' };
}

type FoundUser = { readonly uid: number; readonly gid: number; readonly name: string | undefined; readonly home: string | undefined };

/** A number is never taken for a name: an image could list `1000` as another name of root. */
function findUser(passwd: readonly PasswdEntry[], { user, userKind, userSubject }: Wanted): FoundUser {
  const numeric = userKind === 'id' || (userKind === 'either' && /^-?\d+$/.test(user));
  if (!numeric) {
    const entry = passwd.find(({ name }) => name === user);
    if (entry === undefined) throw invalidField(userSubject, user, "is not in the image's /etc/passwd");
    return entry;
  }
  const uid = parseUserId(user);
  if (uid === undefined) throw invalidField(userSubject, user, 'is no user id');
  return passwd.find((entry) => entry.uid === uid) ?? { uid, gid: 0, name: undefined, home: undefined };
}

function findGroup(groups: readonly GroupEntry[], { group, groupSubject }: Wanted): number | undefined {
  if (group === '') return undefined;
  const gid = parseUserId(group) ?? groups.find(({ name }) => name === group)?.gid;
  if (gid === undefined) throw invalidField(groupSubject, group, "is no group id and not in the image's /etc/group");
  return gid;
}

/** Merge adds the groups that the image lists the user in; Strict takes the request's alone. Source: KEP-3619. */
function memberships(groups: readonly GroupEntry[], { name }: FoundUser, security: LinuxContainerSecurityContext | null): readonly number[] {
  if (name === undefined || security?.supplemental_groups_policy === SupplementalGroupsPolicy.Strict) return [];
  return groups.filter(({ members }) => members.includes(name)).map(({ gid }) => gid);
}

function groupNumber(value: string): number {
  const gid = parseUserId(value);
  if (gid === undefined) throw invalidField(`${FIELD}.supplemental_groups`, value, 'is no group id');
  return gid;
}

/** The lines hold numbers alone: nothing of a request can put a line of its own into a file (CVE-2022-4318). */
function withUser(passwd: Buffer, uid: number, gid: number): Buffer {
  return withLine(passwd, `${uid}:x:${uid}:${gid}:container user:/:/sbin/nologin`);
}

function withLine(file: Buffer, line: string): Buffer {
  const newline = file.length === 0 || file.at(-1) === 0x0a ? '' : '\n';
  return Buffer.concat([file, Buffer.from(`${newline}${line}\n`)]);
}

/** `undefined` where there is no such file. */
async function readInRoot(rootfs: string, path: string): Promise<Buffer | undefined> {
  let fd: number;
  try {
    // NONBLOCK: a fifo in its place must not hold the daemon up.
    fd = openInRoot(rootfs, path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR', 'ELOOP')) return undefined;
    throw err;
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw new CriError('invalidArgument', `/${path} of the image is no file`);
    if (stat.size > MAX_FILE_BYTES) throw new CriError('invalidArgument', `/${path} of the image has ${stat.size} bytes, more than ${MAX_FILE_BYTES}`);
    return await promisify(readFile)(fd);
  } finally {
    closeSync(fd);
  }
}

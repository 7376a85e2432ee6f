/** One line of a passwd file. */
export interface PasswdEntry {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
}

/** One line of a group file. */
export interface GroupEntry {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

/** Lines of another shape, and numbers that are none, are left out: they are the image's, and one bad line must not hide the rest. Source: passwd(5). */
export function parsePasswd(text: string): readonly PasswdEntry[] {
  return text.split('\n').flatMap((line) => {
    const [name, , uid, gid, , home] = line.split(':');
    if (name === undefined || name === '' || uid === undefined || gid === undefined) return [];
    const entry = { name, uid: parseUserId(uid), gid: parseUserId(gid), home: home ?? '' };
    return entry.uid === undefined || entry.gid === undefined ? [] : [entry as PasswdEntry];
  });
}

/** As `parsePasswd`. Source: group(5). */
export function parseGroup(text: string): readonly GroupEntry[] {
  return text.split('\n').flatMap((line) => {
    const [name, , gid, members] = line.split(':');
    const number = gid === undefined ? undefined : parseUserId(gid);
    if (name === undefined || name === '' || number === undefined) return [];
    return [{ name, gid: number, members: (members ?? '').split(',').map((member) => member.trim()) }];
  });
}

/** A uid or gid in decimal; `undefined` for anything else. 4294967295 is -1, which setuid(2) takes as "leave it". */
export function parseUserId(text: string): number | undefined {
  if (!/^\d{1,10}$/.test(text)) return undefined;
  const id = Number(text);
  return id < 0xffff_ffff ? id : undefined;
}

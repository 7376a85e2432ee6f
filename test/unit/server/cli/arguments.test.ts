import { expect, test } from 'vitest';
import { parseCommand, UsageError } from '../../../../server/cli/arguments.ts';
import type { ImageCommand } from '../../../../server/cli/image.ts';

function image(command: ImageCommand, path?: string) {
  return { name: 'image', config: { path, overrides: {} }, command };
}

test.each([
  ['', { name: 'daemon', config: { path: undefined, overrides: {} } }],
  ['daemon', { name: 'daemon', config: { path: undefined, overrides: {} } }],
  ['--config /c', { name: 'daemon', config: { path: '/c', overrides: {} } }],
  ['daemon -c /c --set berth.root=/a=b --set x.y=', { name: 'daemon', config: { path: '/c', overrides: { 'berth.root': '/a=b', 'x.y': '' } } }],
  ['config', { name: 'config', config: { path: undefined, overrides: {} } }],
  ['config --default', { name: 'sample' }],
  ['version', { name: 'version' }],
  ['--version', { name: 'version' }],
  ['help', { name: 'help' }],
  ['image load --help', { name: 'help' }],
  ['image load x.tar', image({ verb: 'load', source: 'x.tar', imageName: undefined, json: false })],
  ['image load - --name busybox:1 --config /c', image({ verb: 'load', source: '-', imageName: 'busybox:1', json: false }, '/c')],
  ['image pull a:1', image({ verb: 'pull', request: { reference: 'a:1' }, quiet: false, json: false })],
  ['image pull a --creds u:p:q -q', image({ verb: 'pull', request: { reference: 'a', username: 'u', password: 'p:q' }, quiet: true, json: false })],
  ['image pull a --authfile /a.json --json', image({ verb: 'pull', request: { reference: 'a', authFile: '/a.json' }, quiet: false, json: true })],
  ['image pulls --json', image({ verb: 'pulls', json: true })],
  ['image ls -q', image({ verb: 'ls', quiet: true, json: false })],
  ['image rm a b', image({ verb: 'rm', names: ['a', 'b'] })],
  ['pod ls --slow', { name: 'pod', config: { path: undefined, overrides: {} }, command: { verb: 'ls', slow: true, json: false } }],
  ['pod timeline a/b -c /c', { name: 'pod', config: { path: '/c', overrides: {} }, command: { verb: 'timeline', pod: 'a/b', json: false } }],
  ['image check --repair', image({ verb: 'check', full: false, repair: true, json: false })],
])('parseCommand() understands "%s"', (line, command) => {
  expect(parseCommand(line.split(' ').filter((word) => word !== ''))).toEqual(command);
});

test.each([
  ['conifg', 'unknown command: conifg; did you mean config?'],
  ['frobnicate', 'unknown command: frobnicate'],
  ['daemon extra', 'unexpected argument: extra'],
  ['config --set root=/x --bogus', "Unknown option '--bogus'"],
  ['daemon --set root', '--set root: not SECTION.KEY=VALUE'],
  ['image', 'image: which of load, pull, pulls, ls, rm, check?'],
  ['image pull', 'image pull: no reference given'],
  ['image pull a --creds secret', /^image pull: --creds is not USER:PASSWORD$/],
  ['image pull a --creds u:p --authfile f', '--creds and --authfile exclude each other'],
  ['image rm', 'image rm: no image given'],
  ['image ls x', 'unexpected argument: x'],
  ['image laod x', 'unknown image command: laod; did you mean load?'],
  ['pod', 'pod: which of ls, timeline?'],
  ['pod timeline', 'pod timeline: no pod given'],
  ['pod timelin x', 'unknown pod command: timelin; did you mean timeline?'],
  ['image load', 'image load: no file, directory or - given'],
  ['image load a b', 'unexpected argument: b'],
])('parseCommand() refuses "%s"', (line, message) => {
  expect(() => parseCommand(line.split(' '))).toThrow(UsageError);
  expect(() => parseCommand(line.split(' '))).toThrow(message);
});

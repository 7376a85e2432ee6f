import { expect, test } from 'vitest';
import { parseCommand, UsageError } from '../../../../server/cli/arguments.ts';

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
  ['image load x.tar', { name: 'image load', config: { path: undefined, overrides: {} }, source: 'x.tar', imageName: undefined }],
  ['image load - --name busybox:1 --config /c', { name: 'image load', config: { path: '/c', overrides: {} }, source: '-', imageName: 'busybox:1' }],
])('parseCommand() understands "%s"', (line, command) => {
  expect(parseCommand(line.split(' ').filter((word) => word !== ''))).toEqual(command);
});

test.each([
  ['conifg', 'unknown command: conifg; did you mean config?'],
  ['frobnicate', 'unknown command: frobnicate'],
  ['daemon extra', 'unexpected argument: extra'],
  ['config --set root=/x --bogus', "Unknown option '--bogus'"],
  ['daemon --set root', '--set root: not SECTION.KEY=VALUE'],
  ['image', 'image: which of load?'],
  ['image laod x', 'unknown image command: laod; did you mean load?'],
  ['image load', 'image load: no file, directory or - given'],
  ['image load a b', 'unexpected argument: b'],
])('parseCommand() refuses "%s"', (line, message) => {
  expect(() => parseCommand(line.split(' '))).toThrow(UsageError);
  expect(() => parseCommand(line.split(' '))).toThrow(message);
});

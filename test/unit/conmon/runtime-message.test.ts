import { expect, test } from 'vitest';
import { runtimeMessage } from '../../../conmon/conmon.ts';

test.each([
  [
    'plain text',
    'executable file `foo` not found in $PATH: No such file or directory\n',
    'executable file `foo` not found in $PATH: No such file or directory',
  ],
  ['several lines', 'fail startup\n\nsetns: No such process\n', 'fail startup; setns: No such process'],
  [
    'a logrus line',
    'time="2026-01-02T03:04:05Z" level=error msg="exec: \\"foo\\": executable file not found in $PATH"\n',
    'exec: "foo": executable file not found in $PATH',
  ],
  ['a word as message', 'level=error msg=EOF', 'EOF'],
  ['warnings before an error', 'level=warning msg="old kernel"\nlevel=error msg="no such file"\n', 'no such file'],
  ['warnings alone', 'level=warning msg="old kernel"\n', 'old kernel'],
  ['the same error twice', 'level=error msg="no"\nlevel=fatal msg="no"\n', 'no'],
  ['JSON', '{"level":"error","msg":"runc create failed: no","time":"2026"}\n', 'runc create failed: no'],
  ['a record that was cut off', 'time="2026" level=error msg="runc create failed: unable to', 'runc create failed: unable to'],
  ['braces that are no JSON', '{oops', '{oops'],
  ['nothing', '\n', ''],
])('runtimeMessage() reads %s', (_what, stderr, message) => {
  expect(runtimeMessage(stderr)).toBe(message);
});

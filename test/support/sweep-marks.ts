// node test/support/sweep-marks.ts FILE: takes away by force what test files have left that did not come to their end.
// FILE has a line "mark directory" for each test file of the run.
import { existsSync, readFileSync } from 'node:fs';
import { snapshot } from './machine.ts';
import { sweep } from './sweep.ts';

const [file = ''] = process.argv.slice(2);
for (const line of existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n') : []) {
  const [mark = '', directory = ''] = line.split(' ');
  // a directory that is still there belongs to a test file that was killed, or that has left something
  for (let attempt = 0; attempt < 3 && existsSync(directory); attempt += 1) await sweep(await snapshot(directory), { mark, directory });
}

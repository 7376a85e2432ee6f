// node test/support/summary.ts DIRECTORY: what test/run has found, from the files that its steps have left there.
// Prints each failure and, as the last line, "N passed, N failed"; ends with 1 when something failed.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { CritestResult } from './critest.ts';

/** The part of vitest's JSON report that is used here. */
interface Report {
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly message: string;
    readonly assertionResults: readonly { readonly status: string; readonly fullName: string; readonly failureMessages: readonly string[] }[];
  }[];
}

const [directory = ''] = process.argv.slice(2);
const files = readdirSync(directory);
const total = { passed: 0, failed: 0, skipped: 0 };

function readJson(name: string): unknown {
  return JSON.parse(readFileSync(join(directory, name), 'utf8'));
}

function fail(where: string, message: string): void {
  total.failed += 1;
  console.log(`FAILED ${where}\n${message.split('\n').slice(0, 12).join('\n').replace(/^/gm, '    ')}`);
}

function addReport(step: string): void {
  for (const file of (readJson(`${step}.json`) as Report).testResults) {
    const failedBefore = total.failed;
    for (const { status, fullName, failureMessages } of file.assertionResults) {
      if (status === 'passed') total.passed += 1;
      else if (status === 'failed') fail(`${step}: ${fullName}`, failureMessages.join('\n'));
      else total.skipped += 1;
    }
    // an error outside of a test: at import, in a hook, or something left behind on the machine
    if (file.status === 'failed' && total.failed === failedBefore) fail(`${step}: ${file.name}`, file.message);
  }
}

function addSpecs(name: string): void {
  const { passed, failed, skipped } = readJson(name) as CritestResult;
  total.passed += passed;
  total.skipped += skipped;
  for (const spec of failed) fail(`${name.replace('.json', '')}: ${spec.name}`, spec.message);
}

for (const line of readFileSync(join(directory, 'steps'), 'utf8').trim().split('\n')) {
  const [step = '', status = ''] = line.split(' ');
  const failedBefore = total.failed;
  if (files.includes(`${step}.json`)) addReport(step);
  if (status !== '0' && total.failed === failedBefore) fail(step, `ended with exit code ${status}, see ${join(directory, `${step}.log`)}`);
}
for (const name of files.filter((file) => /^critest-.*\.json$/.test(file))) addSpecs(name);

console.log(`${total.passed} passed, ${total.failed} failed${total.skipped > 0 ? `, ${total.skipped} skipped` : ''}`);
process.exitCode = total.failed > 0 ? 1 : 0;

import { existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * What a program does instead of its work, for one verb of it:
 * - `fail` says so and exits with 1; `rubbish` prints something that is no JSON and exits with 0; `die` kills itself;
 * - `hold` waits until the fault is cleared and then does its work; `hang` waits likewise and then exits with 1;
 * - `slow` does its work half a second later.
 */
export type Fault = 'fail' | 'rubbish' | 'die' | 'hold' | 'hang' | 'slow';

const VERBS = 'create|start|update|kill|delete|state|exec|features';

/**
 * Programs that the daemon runs, each behind a script that looks for an order to misbehave. The verb is the CNI command
 * (`ADD`, `DEL`), the OCI runtime's (`create`, `start`, …), or `any`.
 */
export class Faults {
  readonly #directory: string;

  /** `programs`: names and real paths. The scripts lie in `directory` under the same names. */
  constructor(directory: string, programs: Readonly<Record<string, string>>) {
    this.#directory = directory;
    for (const [name, path] of Object.entries(programs)) writeFileSync(join(directory, name), script(path), { mode: 0o755 });
  }

  /** The path under which the daemon shall run a program. */
  path(name: string): string {
    return join(this.#directory, name);
  }

  set(name: string, verb: string, fault: Fault): void {
    writeFileSync(this.#order(name, verb), fault);
  }

  /** Takes one fault back; without arguments all of them. */
  clear(name?: string, verb = 'any'): void {
    if (name !== undefined) {
      rmSync(this.#order(name, verb), { force: true });
      return;
    }
    for (const file of readdirSync(this.#directory)) {
      if (file.endsWith('.away')) renameSync(join(this.#directory, file), join(this.#directory, file.slice(0, -'.away'.length)));
      else if (file.includes('.order.')) rmSync(join(this.#directory, file));
    }
  }

  /** As if the program were not installed. */
  hide(name: string): void {
    renameSync(this.path(name), `${this.path(name)}.away`);
  }

  /** How often the verb was asked for. */
  calls(name: string, verb: string): number {
    const log = `${this.path(name)}.calls`;
    if (!existsSync(log)) return 0;
    return readFileSync(log, 'utf8')
      .split('\n')
      .filter((line) => line === verb).length;
  }

  /** Starts counting anew. */
  forget(): void {
    for (const file of readdirSync(this.#directory)) if (file.endsWith('.calls')) rmSync(join(this.#directory, file));
  }

  #order(name: string, verb: string): string {
    return `${this.path(name)}.order.${verb}`;
  }
}

function script(real: string): string {
  return `#!/bin/sh
verb=$CNI_COMMAND
if [ -z "$verb" ]; then
  verb=any
  for word in "$@"; do
    case $word in ${VERBS}) verb=$word; break ;; esac
  done
fi
echo "$verb" >>"$0.calls"
order=$0.order.$verb
[ -e "$order" ] || order=$0.order.any
[ -e "$order" ] || exec ${real} "$@"
case $(cat "$order") in
  fail)
    echo '{"cniVersion": "1.0.0", "code": 100, "msg": "injected failure"}'
    echo 'injected failure' >&2
    exit 1 ;;
  rubbish) echo 'this is { no JSON'; exit 0 ;;
  die) kill -KILL $$ ;;
  hang) while [ -e "$order" ]; do sleep 0.05; done; exit 1 ;;
  hold) while [ -e "$order" ]; do sleep 0.05; done ;;
  slow) sleep 0.5 ;;
esac
exec ${real} "$@"
`;
}

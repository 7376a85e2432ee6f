// Writes dist/ (or the directory given): what is installed and measured. One bundle for each process, which needs no
// node_modules beside it.
import { chmod, copyFile, mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { build, type Plugin } from 'esbuild';

const root = join(import.meta.dirname, '..');
const dist = resolve(process.argv[2] ?? join(root, 'dist'));
/** Made aside and then put in place: a daemon that starts meanwhile sees the old tree or the new one. */
const fresh = `${dist}.new`;

/** Bundle → its entry. The daemon finds the programs of its children beside its own bundle. */
const entries = {
  berth: 'server/main.ts',
  'fetch-child': 'storage/fetch-child.ts',
  'unpack-child': 'storage/unpack-child.ts',
  'cri-call': 'contrib/cri-call.ts',
};

/** CommonJS packages in a bundle that is an ES module still call `require` for Node's own modules. */
const REQUIRE = "import { createRequire as __createRequire } from 'node:module'; const require = __createRequire(import.meta.url);";

/** koffi looks for its native half in node_modules; here it is the file beside the bundle. Only the lookup is replaced. */
const koffiBeside: Plugin = {
  name: 'koffi-beside',
  setup: ({ onLoad }) => {
    onLoad({ filter: /\/koffi\/src\/koffi\/src\/static\.js$/ }, () => ({
      contents: "import { createRequire } from 'node:module'; export const loadStatic = () => createRequire(import.meta.url)('./koffi.node');",
    }));
  },
};

async function checkEntries(): Promise<void> {
  const missing: string[] = [];
  for (const entry of Object.values(entries)) await stat(join(root, entry)).catch(() => missing.push(entry));
  if (missing.length > 0) throw new Error(`nothing built: no ${missing.join(', no ')}`);
}

async function copyNative(): Promise<void> {
  const fromKoffi = createRequire(createRequire(import.meta.url).resolve('koffi'));
  const name = `@koromix/koffi-${process.platform}-${process.arch}`;
  const native = join(dirname(fromKoffi.resolve(name)), `${process.platform}_${process.arch}`, 'koffi.node');
  await copyFile(native, join(fresh, 'koffi.node'));
}

async function copyLauncher(): Promise<void> {
  const launcher = join(fresh, 'berth');
  await copyFile(join(import.meta.dirname, 'berth.sh'), launcher);
  await chmod(launcher, 0o755);
}

await checkEntries();
await rm(fresh, { recursive: true, force: true });
await mkdir(fresh);
await build({
  entryPoints: Object.fromEntries(Object.entries(entries).map(([name, entry]) => [name, join(root, entry)])),
  outdir: fresh,
  bundle: true,
  format: 'esm',
  platform: 'node',
  target: 'node26',
  minifySyntax: true,
  minifyWhitespace: true,
  keepNames: false,
  legalComments: 'external',
  sourcemap: 'external',
  banner: { js: REQUIRE },
  plugins: [koffiBeside],
  logLevel: 'warning',
});
await copyNative();
await copyLauncher();
await rm(dist, { recursive: true, force: true });
await rename(fresh, dist);
for (const name of await readdir(dist)) {
  if (!name.endsWith('.map') && !name.endsWith('.txt')) console.log(`${join(dist, name)}  ${Math.ceil((await stat(join(dist, name))).size / 1024)} KiB`);
}

// Builds the session addon and the CPU operators into build/Release:
//
//   node build.mjs [--prebuilt]
//
// With --prebuilt the result also goes to prebuilds/<platform>-<arch> of the package, which npm ships. Needs what
// node-gyp needs: a C++17 compiler, make, Python. npm brings node-gyp and puts it on the path of its scripts.
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const native = dirname(fileURLToPath(import.meta.url));
const { values } = parseArgs({ options: { prebuilt: { type: 'boolean', default: false } } });

// Headers beside the running Node spare node-gyp their download.
const installation = resolve(dirname(process.execPath), '..');
const headers = existsSync(join(installation, 'include', 'node', 'node_api.h'))
  ? [`--nodedir=${installation}`]
  : [];
const run = spawnSync('node-gyp', ['configure', 'build', `--directory=${native}`, '--jobs=max', ...headers], {
  stdio: 'inherit',
  shell: process.platform === 'win32',
});
if (run.error) console.error(`node-gyp does not run (${run.error.message}): use \`npm run build:native\``);

if (run.status === 0 && values.prebuilt) {
  const release = join(native, 'build', 'Release');
  const shipped = join(native, '..', '..', 'prebuilds', `${process.platform}-${process.arch}`);
  mkdirSync(shipped, { recursive: true });
  const libraries = readdirSync(release).filter(name =>
    /^(onnxrewrite\.node|libonnxrewrite_ops\.(so|dylib))$/.test(name),
  );
  for (const name of libraries) copyFileSync(join(release, name), join(shipped, name));
  console.log(`${libraries.join(', ')} copied to ${shipped}`);
}
process.exit(run.status ?? 1);

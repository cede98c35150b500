import { spawnSync } from 'node:child_process';
import { type NativeParts, nativeParts } from '../../custom-ops/runtime/node/binding.js';

type Loaded = Extract<NativeParts, { ok: true }>;

/** A string is the reason to skip. */
let outcome: Loaded | string | undefined;

/**
 * The native build, brought up to date on the first call unless ONNX_REWRITE_NATIVE names another. Without a C++ compiler the calling suite or test is
 * skipped, with the reason printed.
 * @throws Error when a compiler is there and the build fails
 */
export function nativeBuild(test: Mocha.Context): Loaded {
  outcome ??= build();
  if (typeof outcome !== 'string') return outcome;
  return test.skip();
}

function build(): Loaded | string {
  if (process.env.ONNX_REWRITE_NATIVE !== undefined) return load();
  const compiler = process.env.CXX ?? 'c++';
  if (spawnSync(compiler, ['--version']).status !== 0) {
    const reason = `no C++ compiler (${compiler}): the native build is not tested`;
    console.log(reason);
    return reason;
  }
  const run = spawnSync('npm', ['run', 'build:native'], { encoding: 'utf8' });
  if (run.status !== 0) throw new Error(`npm run build:native failed:\n${run.stdout}${run.stderr}`);
  return load();
}

function load(): Loaded {
  const parts = nativeParts();
  if (!parts.ok) throw new Error(parts.reason);
  return parts;
}

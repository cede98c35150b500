// Builds libonnxrewrite_ops_cuda.so, the operators for ONNX Runtime's CUDA execution provider, beside the native build:
//
//   node build-cuda.mjs [--architectures 80,90a,90+ptx] [--all] [--output FILE] [-- NVCC_FLAG...]
//
// Each architecture becomes machine code of that chip, or with `+ptx` code that later drivers compile for later chips.
// `--all` takes in operators whose kernels agree with the reference in emulation but have not run on a GPU.
// nvcc is $NVCC, that of $CUDA_HOME, the one on the path, or the one in /usr/local/cuda.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const native = dirname(fileURLToPath(import.meta.url));
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    architectures: { type: 'string', default: '80,90a,90+ptx' },
    all: { type: 'boolean', default: false },
    output: { type: 'string', default: join(native, 'build', 'Release', 'libonnxrewrite_ops_cuda.so') },
  },
});

const candidates = [
  process.env.NVCC,
  process.env.CUDA_HOME && join(process.env.CUDA_HOME, 'bin', 'nvcc'),
  'nvcc',
  '/usr/local/cuda/bin/nvcc',
];
const nvcc = candidates.find(file => file && spawnSync(file, ['--version']).status === 0);
if (!nvcc) {
  console.error('no nvcc: install the CUDA toolkit (12.4 or later), or name its compiler in $NVCC');
  process.exit(1);
}

/** Left out without `--all`: function bodies, which are known to be right on a GPU, run in their place. */
const EMULATED_ONLY = ['bilinear-attention', 'structured-matmul'];

const operators = join(native, '..');
const sources = readdirSync(operators)
  .filter(name => values.all || !EMULATED_ONLY.includes(name))
  .map(name => join(operators, name, 'cuda.cu'))
  .filter(existsSync);
const architectures = values.architectures.split(',');
const code = architectures.map(architecture => {
  const number = architecture.replace('+ptx', '');
  const kind = architecture.endsWith('+ptx') ? 'compute' : 'sm';
  return `-gencode=arch=compute_${number},code=${kind}_${number}`;
});
const output = resolve(values.output);
const unfinished = `${output}.${process.pid}`;
mkdirSync(dirname(output), { recursive: true });
const run = spawnSync(
  nvcc,
  [
    ...['-O3', '-std=c++17', '-shared', '-cudart=static', '-t=0'],
    ...['-Xcompiler=-fPIC,-fvisibility=hidden', '-Xlinker=--exclude-libs=ALL'],
    // Only machine code for sm_90a has Hopper's instructions.
    ...(architectures.includes('90a') ? ['-DONNX_REWRITE_HOPPER'] : []),
    ...code,
    ...positionals,
    ...[
      '-o',
      unfinished,
      join(native, 'operator_list.cc'),
      join(native, 'cuda', 'device-memory.cu'),
      ...sources,
    ],
  ],
  { stdio: 'inherit' },
);
if (run.status === 0) renameSync(unfinished, output);
else rmSync(unfinished, { force: true });
process.exitCode = run.status ?? 1;

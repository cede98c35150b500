import { parseArgs } from 'node:util';
import { attributesOf as elementwiseAttributes } from '../../custom-ops/elementwise-attention/parameters.js';
import {
  attributesOf as multiLevelAttributes,
  plainParameters,
} from '../../custom-ops/multi-level-attention/parameters.js';
import {
  defaultParameters,
  attributesOf as multipoleAttributes,
} from '../../custom-ops/multipole-attention/parameters.js';
import {
  elementwiseAttention,
  multiLevelAttention,
  multipoleAttention,
  OperatorRunner,
} from '../../custom-ops/runtime/web/node.js';
import type { HostTensor } from '../../custom-ops/runtime/web/operator-runner.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { endProcess, openOnnxRuntime } from './onnxruntime-over-dawn.js';
import {
  attempt,
  type Contender,
  kernelLines,
  OnnxRuntimeContender,
  OperatorContender,
  printLine,
  timeInTurns,
} from './webgpu-contenders.js';

/**
 * The WebGPU kernels of ElementwiseAttention and MultiLevelAttention, on random numbers, against exact attention of
 * the same width: the project's own kernel, and com.microsoft.MultiHeadAttention of ONNX Runtime's WebGPU execution
 * provider.
 *
 *   node dist/test/bench/webgpu-structured-attention.js [--length N]... [--heads N] [--dawn OPTION]...
 *
 * All contenders of one length and of one decoding step take turns. Prints lines of JSON, and `done` at last: the
 * process ends by a signal.
 */
const { values: options } = parseArgs({
  options: {
    length: { type: 'string', multiple: true, default: ['8192', '32768'] },
    heads: { type: 'string', default: '8' },
    dawn: { type: 'string', multiple: true, default: [] },
  },
});
const heads = Number(options.heads);
const SIZE = 64;
const RANKS = [[64], [48, 16], [40, 16, 4, 4], [32, 8, 6, 4, 4, 4, 4, 2], [8, 8, 8, 8, 8, 8, 8, 8]] as const;

/** Blocks of the last level such that the first level alone reaches over the whole length. */
const blockFor = (length: number, levels: number) => length / 2 ** (levels - 1);

async function measure(
  runner: OperatorRunner,
  length: number,
  contenders: readonly (Contender & { readonly own?: OperatorContender })[],
): Promise<void> {
  const times = await timeInTurns(runner.device, contenders);
  for (const [n, { name }] of contenders.entries()) {
    const faster = Object.fromEntries(
      contenders
        .slice(0, 2)
        .map((other, o) => [`times_faster_than_${other.name}`, times[o]!.gpuMs / times[n]!.gpuMs]),
    );
    printLine({ attention: name, length, heads, size: SIZE, ...times[n], ...faster });
  }
}

async function measureLength(
  ort: Parameters<typeof OnnxRuntimeContender.open>[0],
  runner: OperatorRunner,
  length: number,
): Promise<void> {
  const random = new SeededRandom(length);
  const tensor = (dims: readonly number[]): HostTensor => ({
    type: 'float32',
    dims,
    data: random.normals(dims.reduce((a, b) => a * b, 1)),
  });
  const split = [1, 2, 3].map(() => tensor([1, heads, length, SIZE]));
  const channels = split.map(({ type, data }) => ({ type, data, dims: [1, length, heads * SIZE] }));
  const exact = { ...defaultParameters(false), retrieve: [-1] };
  const own = [
    new OperatorContender('own exact kernel', runner, multipoleAttention, multipoleAttributes(exact), split),
    ...RANKS.flatMap(ranks =>
      [false, true].map(
        causal =>
          new OperatorContender(
            `multi-level ${ranks.join('|')}${causal ? ', causal' : ''}`,
            runner,
            multiLevelAttention,
            multiLevelAttributes(plainParameters(ranks, blockFor(length, ranks.length), { causal })),
            split,
          ),
      ),
    ),
    ...[2, 6].flatMap(order =>
      [false, true].map(
        causal =>
          new OperatorContender(
            `elementwise order ${order}${causal ? ', causal' : ''}`,
            runner,
            elementwiseAttention,
            elementwiseAttributes({ order, causal }),
            channels,
          ),
      ),
    ),
    ...(length > 8192
      ? []
      : [
          new OperatorContender(
            'elementwise order 0',
            runner,
            elementwiseAttention,
            elementwiseAttributes({ order: 0, causal: false }),
            channels,
          ),
        ]),
  ];
  const theirs = await OnnxRuntimeContender.open(ort, runner, split);
  await measure(runner, length, [theirs, ...own]);
  for (const contender of own) {
    const { kernels, spanMs } = await contender.kernels();
    printLine({ attention: contender.name, length, gpu_span_ms: spanMs, kernels: kernelLines(kernels) });
    contender.destroy();
  }
  await theirs.close();
}

/** A decoding step after `length` tokens: one query for every head, states and caches written anew. */
async function measureStep(runner: OperatorRunner, length: number): Promise<void> {
  const random = new SeededRandom(length);
  const tensor = (...dims: number[]): HostTensor => ({
    type: 'float32',
    dims,
    data: random.normals(dims.reduce((a, b) => a * b, 1)),
  });
  const token = () => tensor(1, heads, 1, SIZE);
  const channel = () => tensor(1, 1, heads * SIZE);
  const ranks = [8, 8, 8, 8, 8, 8, 8, 8];
  const parameters = plainParameters(ranks, blockFor(length, ranks.length), { causal: true });
  const block = (level: number) => parameters.block * 2 ** (ranks.length - 1 - level);
  const caches = ranks.map((rank, level) =>
    tensor(1, heads, level === 0 ? length - 1 : (length - 1) % block(level), rank),
  );
  const contenders = [
    new OperatorContender(
      'multi-level step, eight levels',
      runner,
      multiLevelAttention,
      multiLevelAttributes(parameters),
      [token(), token(), token(), null, tensor(1, heads, length - 1, SIZE), ...caches],
      3 + ranks.length,
    ),
    new OperatorContender(
      'elementwise step, order 6',
      runner,
      elementwiseAttention,
      elementwiseAttributes({ order: 6, causal: true }),
      [
        channel(),
        channel(),
        channel(),
        null,
        tensor(1, 2, 7, heads * SIZE),
        { type: 'float32', dims: [1, heads * SIZE], data: new Float32Array(heads * SIZE) },
      ],
      3,
    ),
  ];
  await measure(runner, length, contenders);
  for (const contender of contenders) {
    const { kernels, spanMs } = await contender.kernels();
    printLine({ attention: contender.name, length, gpu_span_ms: spanMs, kernels: kernelLines(kernels) });
    contender.destroy();
  }
}

const { ort, device } = await openOnnxRuntime(options.dawn);
for (const length of options.length.map(Number)) {
  const runner = new OperatorRunner(device);
  await attempt(`attention at ${length}`, () => measureLength(ort, runner, length));
  await attempt(`step at ${length}`, () => measureStep(runner, length));
  runner.destroy();
}
console.log('done');
endProcess();

import type { InferenceSession as Session } from 'onnxruntime-common';
import { InferenceSession as OnnxRuntimeSession } from 'onnxruntime-node';
import { median } from '../../cli/statistics.js';
import { GraphBuilder, type Value } from '../../custom-ops/graph-builder.js';
import type { Tensor as PlainTensor } from '../../custom-ops/operator.js';
import { InferenceSession, Tensor } from '../../custom-ops/runtime/node/index.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { INPUT_NAMES, productInOperators } from '../../custom-ops/structured-matmul/function-body.js';
import { factorShapes, multiplyAdds, type Structure } from '../../custom-ops/structured-matmul/parameters.js';
import {
  blockTensorTrain,
  butterfly,
  kronecker,
  lowRank,
  monarch,
  multiLevelLowRank,
} from '../../custom-ops/structured-matmul/structures.js';
import { buildModel } from '../../rewriter/onnx/encode.js';
import { DataType, type NodeSpec, type TensorSpec } from '../../rewriter/onnx/spec.js';
import { storedTensor } from '../custom-ops/stored-tensor.js';
import { nodeModel } from '../custom-ops/structured-matmul/node-model.js';
import { commandLine, printReport } from './command.js';
import { type Contender, spread, timeInTurns } from './contenders.js';
import { relativeSquaredError } from './relative-squared-error.js';

/**
 * One product of each kind by the CPU kernel of StructuredMatMul, with factors packed beforehand and packed in every
 * run, against the plain operators that exporters write, and against a dense matrix of the same size:
 *
 *   node dist/test/bench/structured-matmul.js --help
 *
 * One process, taking turns of two runs of which the second counts, medians; prints one JSON document. Speeds are
 * those over the plain operators and over the dense product.
 */
const { values: options } = commandLine('[--features N] [--rows N] [--threads N] [--runs N]', {
  features: { type: 'string', default: '512' },
  rows: { type: 'string', default: '1024' },
  threads: { type: 'string', default: '2' },
  runs: { type: 'string', default: '15' },
});
const [features, rows, threads] = [options.features, options.rows, options.threads].map(Number) as [
  number,
  number,
  number,
];
const sessionOptions: Session.SessionOptions = { executionProviders: ['cpu'], intraOpNumThreads: threads };

const STRUCTURES: Readonly<Record<string, Structure>> = {
  'low-rank, rank 1/8': lowRank(features, features, features / 8),
  'block-tensor-train, 16 pieces, rank 2': blockTensorTrain(features, features, 16, 16, 2),
  'monarch, 32 pieces': monarch(features, features, 32, 32),
  'multi-level-low-rank, 32|16|8|8': multiLevelLowRank(features, features, [32, 16, 8, 8]),
  'kronecker, 16 x 32 pieces': kronecker(features, features, 16, 32),
  butterfly: butterfly(features),
};

const random = new SeededRandom(features);
const normal = (dims: readonly number[]): PlainTensor => ({
  dims,
  data: random.normals(dims.reduce((product, dim) => product * dim, 1)).map(x => x / Math.sqrt(dims[1]!)),
});
const x = new Tensor('float32', random.normals(rows * features), [rows, features]);

function plainModel(nodes: readonly NodeSpec[], initializers: readonly TensorSpec[]): Uint8Array {
  const matrix = (name: string) => ({ name, dataType: DataType.FLOAT, dims: ['rows', features] });
  return buildModel({
    irVersion: 8,
    opsetImports: { '': 18 },
    graph: { name: 'product', nodes, inputs: [matrix('x')], outputs: [matrix('output')], initializers },
  });
}

function inOperators(structure: Structure, stored: readonly TensorSpec[]): Uint8Array {
  const b = new GraphBuilder(18);
  const value = (name: string): Value => ({ name, type: DataType.FLOAT });
  b.output(productInOperators(b, value('x'), value, structure), 'output');
  return plainModel(b.nodes, stored);
}

function contender(
  name: string,
  session: Session | InferenceSession,
  feeds: Readonly<Record<string, Tensor>>,
): Contender {
  return {
    name,
    run: async () => (await session.run(feeds)).output!.data as Float32Array,
    release: () => session.release(),
  };
}

async function measure(name: string, structure: Structure): Promise<unknown> {
  const factors = factorShapes(structure).map(normal);
  const named = factors.map((factor, n): [string, PlainTensor] => [INPUT_NAMES[n + 1]!, factor]);
  const stored = named.map(([input, factor]) => storedTensor(input, factor, false));
  const dense = storedTensor('weight', normal([features, features]), false);
  const theirs = async (model: Uint8Array) => await OnnxRuntimeSession.create(model, sessionOptions);
  const ours = async (given: readonly PlainTensor[]) =>
    await InferenceSession.create(
      nodeModel(structure, { rank: 2, bare: true, factors: given }),
      sessionOptions,
    );
  const inputs = Object.fromEntries(
    named.map(([input, { dims, data }]) => [input, new Tensor('float32', data, dims)]),
  );
  const product = { opType: 'MatMul', inputs: ['x', 'weight'], outputs: ['output'] };
  const contenders = [
    contender('dense', await theirs(plainModel([product], [dense])), { x }),
    contender('plain operators', await theirs(inOperators(structure, stored)), { x }),
    contender('kernel', await ours(factors), { x }),
    contender('kernel that packs in every run', await ours([]), { x, ...inputs }),
  ];
  const times = await timeInTurns(contenders, Number(options.runs), { warm: true });
  for (const each of contenders) await each.release();
  const ms = times.map(each => median(each.ms));
  return {
    name,
    multiply_adds: multiplyAdds(structure),
    share_of_dense: multiplyAdds(structure) / features ** 2,
    relative_error: Math.sqrt(relativeSquaredError(times[2]!.output, times[1]!.output)),
    results: contenders.map((each, n) => ({ name: each.name, ...spread(times[n]!.ms) })),
    over_plain: ms[1]! / ms[2]!,
    over_dense: ms[0]! / ms[2]!,
  };
}

const measurements = [];
for (const [name, structure] of Object.entries(STRUCTURES)) measurements.push(await measure(name, structure));
printReport({ threads, features, rows, measurements });

import { DataType, type FunctionSpec } from '../../rewriter/onnx/spec.js';
import { GraphBuilder, type Value } from '../graph-builder.js';
import { type BodyContext, DOMAIN } from '../operator.js';
import { atLeastOne } from '../softmax-part.js';
import { type Level, MOST_LEVELS, type Structure, stages } from './parameters.js';

export const OP_TYPE = 'StructuredMatMul';

/** Inputs of the operator, in order; a butterfly has left_1 only. */
export const INPUT_NAMES: readonly string[] = [
  'x',
  ...Array.from({ length: MOST_LEVELS }, (_, level) => [`left_${level + 1}`, `right_${level + 1}`]).flat(),
];

/** Reshape from here on can be told that a dimension of 0 means 0. */
const OPSET_WITH_ALLOW_ZERO = 14;

/** The operator in standard ONNX operators: two batched products for every level, two elements a stage. */
export function structuredMatMulBody(
  structure: Structure,
  { opset, elementType }: BodyContext,
): FunctionSpec {
  const { kind, inFeatures, outFeatures, levels } = structure;
  const inputs = INPUT_NAMES.slice(0, kind === 'butterfly' ? 2 : 1 + 2 * levels.length);
  const b = new GraphBuilder(opset);
  // The element type is the node's: UNDEFINED stands for it until the cast.
  const given = { name: 'x', type: DataType.UNDEFINED };
  const factor = (name: string) => b.cast({ name, type: DataType.UNDEFINED }, DataType.FLOAT);
  const flat = b.reshape(b.cast(given, DataType.FLOAT), [-1, inFeatures]);
  const count = b.dim(flat, 0);
  // A product of no rows divides by zero in ONNX Runtime 1.30: one row more, which is cut off again.
  const rows = atLeastOne(b, flat, 2, 0, count, 0);
  const sum = productInOperators(b, rows, factor, structure);
  const shape = b.node('Shape', [given], DataType.INT64);
  const target = b.concat([b.slice(shape, 0, 0, -1), b.ints([outFeatures])], 0);
  const allowZero = opset >= OPSET_WITH_ALLOW_ZERO ? { allowzero: { type: 'int', value: 1 } as const } : {};
  const whole = b.node('Reshape', [b.slice(sum, 0, 0, count), target], DataType.FLOAT, allowZero);
  b.output(b.castLike(whole, given, elementType), 'output');
  return {
    domain: DOMAIN,
    name: OP_TYPE,
    inputs,
    outputs: ['output'],
    opsetImports: { '': opset },
    nodes: b.nodes,
  };
}

/** Rows [T, I], T at least 1, times the matrix: [T, O]. */
export function productInOperators(
  b: GraphBuilder,
  rows: Value,
  factor: (name: string) => Value,
  structure: Structure,
): Value {
  const { kind, levels } = structure;
  if (kind === 'butterfly') return butterfly(b, rows, factor('left_1'), structure);
  const terms = levels.map((level, n) => {
    const apply = kind === 'kronecker' ? kronecker : level.permuted ? permuted : blockDiagonal;
    const product = apply(b, rows, factor(`left_${n + 1}`), factor(`right_${n + 1}`), level, structure);
    return level.scale === 1 ? product : b.mul(product, level.scale);
  });
  return terms.reduce((sum, term) => b.add(sum, term));
}

type Apply = (
  b: GraphBuilder,
  rows: Value,
  left: Value,
  right: Value,
  level: Level,
  structure: Structure,
) => Value;

/** [T, I] -> [p, T, I / p]. */
export function pieces(b: GraphBuilder, rows: Value, count: number, features: number): Value {
  return b.transpose(b.reshape(rows, [-1, count, features / count]), [1, 0, 2]);
}

const permuted: Apply = (b, rows, left, right, level, structure) => {
  const products = permutedPieces(b, rows, left, right, level, structure.inFeatures);
  return b.reshape(b.transpose(products, [1, 2, 0]), [-1, structure.outFeatures]);
};

/** The output pieces of a permuted level side by side, [q, T, O / q]. */
export function permutedPieces(
  b: GraphBuilder,
  rows: Value,
  left: Value,
  right: Value,
  { inputPieces, outputPieces, rank }: Pick<Level, 'inputPieces' | 'outputPieces' | 'rank'>,
  inFeatures: number,
): Value {
  const middle = b.matMul(pieces(b, rows, inputPieces, inFeatures), right);
  const byOutput = b.transpose(b.reshape(middle, [inputPieces, -1, outputPieces, rank]), [2, 1, 0, 3]);
  return b.matMul(b.reshape(byOutput, [outputPieces, -1, inputPieces * rank]), left);
}

const blockDiagonal: Apply = (b, rows, left, right, { inputPieces }, structure) => {
  const middle = b.matMul(pieces(b, rows, inputPieces, structure.inFeatures), right);
  return b.reshape(b.transpose(b.matMul(middle, left), [1, 0, 2]), [-1, structure.outFeatures]);
};

/** A X B^T of every row as a matrix X [c, d]. */
const kronecker: Apply = (b, rows, left, right, { inputPieces }, structure) => {
  const matrices = b.reshape(rows, [-1, inputPieces, structure.inFeatures / inputPieces]);
  const products = b.matMul(left, b.matMul(matrices, b.transpose(right, [1, 0])));
  return b.reshape(products, [-1, structure.outFeatures]);
};

/** Stage s: entries as [T, blocks, 2, 2^s], the second axis of each pair summed by its 2 x 2 block. */
function butterfly(b: GraphBuilder, rows: Value, factors: Value, structure: Structure): Value {
  const size = structure.inFeatures;
  let vector = rows;
  for (let stage = 0; stage < stages(structure); stage++) {
    const stride = 2 ** stage;
    const block = b.reshape(b.slice(factors, 0, stage, stage + 1), [1, size / (2 * stride), stride, 2, 2]);
    const weights = b.transpose(block, [0, 1, 3, 4, 2]);
    const pairs = b.reshape(vector, [-1, size / (2 * stride), 1, 2, stride]);
    vector = b.reshape(b.reduceSum(b.mul(weights, pairs), 3), [-1, size]);
  }
  return vector;
}

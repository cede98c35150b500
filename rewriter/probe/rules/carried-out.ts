import type { NodeInputs } from '../probe.js';
import {
  axisOf,
  broadcastReader,
  coordinates,
  remembered,
  rounded,
  type Sample,
  sizeOf,
  stridedReader,
  stridesOf,
  UnknownSample,
} from '../sample.js';
import { networks, parseEinsum } from './networks.js';
import type { Rule, Rules } from './rule.js';

/**
 * Operators of networks carried out number by number, as experiments do with numbers of their own; elsewhere
 * their results count as data.
 */

/** A result shaped and typed as the rule that takes results for data says, with elements of its own. */
function withElements(inputs: NodeInputs, at: (shape: Sample) => Sample['at']): readonly Sample[] {
  const shape = networks[inputs.node.type]!(inputs)[0]!;
  return [remembered(rounded(shape.dims, shape.dataType, at(shape)))];
}

/** One factor of a contraction: its elements, and a letter for each axis. */
interface Term {
  readonly sample: Sample;
  readonly letters: string;
}

/** Elements of the sum over all letters that `result` lacks; axes of size 1 broadcast. */
function contraction(
  terms: readonly Term[],
  result: string,
  factor: number,
): (shape: Sample) => Sample['at'] {
  const sizes = new Map<string, number>();
  for (const { sample, letters } of terms) {
    [...letters].forEach((letter, axis) => {
      sizes.set(letter, Math.max(sizes.get(letter) ?? 1, sample.dims[axis]!));
    });
  }
  const summed = [...sizes.keys()].filter(letter => !result.includes(letter));
  const summedDims = summed.map(letter => sizes.get(letter)!);
  const steps = sizeOf(summedDims);
  const factors = terms.map(({ sample, letters }) => {
    const strides = stridesOf(sample.dims);
    const strideOf = (letter: string) =>
      [...letters].reduce(
        (sum, other, axis) => (other === letter && sample.dims[axis] !== 1 ? sum + strides[axis]! : sum),
        0,
      );
    const inner = summed.map(strideOf);
    const offsets = Array.from({ length: steps }, (_, step) => dot(coordinates(step, summedDims), inner));
    return { lineAt: linesOf(sample.at, offsets), outer: [...result].map(strideOf) };
  });
  return ({ dims }) => {
    const lineReaders = factors.map(({ lineAt, outer }) => stridedReader(lineAt, dims, outer, 0));
    const ones = new Float64Array(steps).fill(1);
    return index => {
      const lines: Float64Array[] = [];
      for (const lineOf of lineReaders) {
        const line = lineOf(index);
        if (line === null) return 0;
        lines.push(line);
      }
      const [first = ones, second = ones, ...others] = lines;
      const product = others.reduce((left, right) => left.map((x, step) => x * right[step]!), first);
      let sum = 0;
      for (let step = 0; step < steps; step++) sum += product[step]! * second[step]!;
      return factor * sum;
    };
  };
}

/** The elements at `offsets` from a place; null where all are zero. Each line is read once. */
function linesOf(at: Sample['at'], offsets: readonly number[]): (start: number) => Float64Array | null {
  const known = new Map<number, Float64Array | null>();
  return start => {
    let line = known.get(start);
    if (line === undefined) {
      const read = Float64Array.from(offsets, offset => at(start + offset));
      line = read.some(element => element !== 0) ? read : null;
      known.set(start, line);
    }
    return line;
  };
}

function dot(position: readonly number[], strides: readonly number[]): number {
  return position.reduce((sum, p, axis) => sum + p * strides[axis]!, 0);
}

const LETTERS = 'abcdefghijkl';

/** Letters of the axes of two matrices, or batches of them, and of their product. */
function matrixLetters(leftRank: number, rightRank: number, turnLeft: boolean, turnRight: boolean) {
  const lead = (rank: number) => {
    const count = Math.max(0, rank - 2);
    return LETTERS.slice(LETTERS.length - count);
  };
  const [left, right] = [turnLeft ? 'zx' : 'xz', turnRight ? 'yz' : 'zy'];
  return {
    left: leftRank === 1 ? 'z' : lead(leftRank) + left,
    right: rightRank === 1 ? 'z' : lead(rightRank) + right,
    result: `${lead(Math.max(leftRank, rightRank))}${leftRank === 1 ? '' : 'x'}${rightRank === 1 ? '' : 'y'}`,
  };
}

const matMul: Rule = inputs => {
  const [left, right] = [inputs.sample(0), inputs.sample(1)];
  const { node } = inputs;
  const turned = (name: string) => node.int(name, 0) === 1;
  if (turned('transBatchA') || turned('transBatchB')) throw new UnknownSample('transposed batches');
  const letters = matrixLetters(left.dims.length, right.dims.length, turned('transA'), turned('transB'));
  const terms = [
    { sample: left, letters: letters.left },
    { sample: right, letters: letters.right },
  ];
  return withElements(inputs, contraction(terms, letters.result, node.float('alpha', 1)));
};

const gemm: Rule = inputs => {
  const [left, right] = [inputs.sample(0), inputs.sample(1)];
  const bias = inputs.optional(2);
  const { node } = inputs;
  const letters = matrixLetters(2, 2, node.int('transA', 0) === 1, node.int('transB', 0) === 1);
  const terms = [
    { sample: left, letters: letters.left },
    { sample: right, letters: letters.right },
  ];
  const product = contraction(terms, letters.result, node.float('alpha', 1));
  return withElements(inputs, shape => {
    const at = product(shape);
    const added = bias === null ? () => 0 : broadcastReader(bias, shape.dims);
    const beta = node.float('beta', 1);
    return index => at(index) + beta * added(index);
  });
};

const einsum: Rule = inputs => {
  const samples = inputs.all();
  const ranks = samples.map(({ dims }) => dims.length);
  const equation = parseEinsum(inputs.node.text('equation', ''), ranks);
  if (equation === null) throw new UnknownSample(`the equation of ${inputs.node.label}`);
  const terms = samples.map((sample, n) => ({ sample, letters: equation.operands[n] ?? '' }));
  return withElements(inputs, contraction(terms, equation.result, 1));
};

/** Rows along one axis, each turned into a row by `compute`. */
function byRows(
  x: Sample,
  axis: number,
  compute: (row: readonly number[]) => readonly number[],
): Sample['at'] {
  const size = x.dims[axis]!;
  const stride = stridesOf(x.dims)[axis]!;
  const rows = new Map<number, readonly number[]>();
  return index => {
    const place = Math.floor(index / stride) % size;
    const first = index - place * stride;
    let row = rows.get(first);
    if (row === undefined) {
      row = compute(Array.from({ length: size }, (_, n) => x.at(first + n * stride)));
      rows.set(first, row);
    }
    return row[place]!;
  };
}

function softmaxOfRow(row: readonly number[]): readonly number[] {
  const top = row.reduce((most, x) => Math.max(most, x), Number.NEGATIVE_INFINITY);
  const weights = row.map(x => Math.exp(x - top));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map(weight => weight / sum);
}

/** Before opset 13 a softmax is one over all axes from the given one on. */
const softmax: Rule = inputs => {
  const x = inputs.sample(0);
  const { node } = inputs;
  const axis = axisOf(node.int('axis', node.opset >= 13 ? -1 : 1), x.dims.length);
  if (node.opset < 13 && axis !== x.dims.length - 1) {
    throw new UnknownSample(`${node.label} runs over several axes`);
  }
  return withElements(inputs, () => byRows(x, axis, softmaxOfRow));
};

/** Normalization of the axes from `axis` on, with its gain and bias; by root mean squares where not `centered`. */
const normalization =
  (centered: boolean): Rule =>
  inputs => {
    const x = inputs.sample(0);
    const [gain, bias] = [inputs.optional(1), inputs.optional(2)];
    const { node } = inputs;
    const axis = axisOf(node.int('axis', -1), x.dims.length);
    const inner = sizeOf(x.dims.slice(axis));
    const epsilon = node.float('epsilon', 1e-5);
    const flat: Sample = { ...x, dims: [sizeOf(x.dims) / inner, inner] };
    const at = byRows(flat, 1, row => {
      const mean = centered ? row.reduce((sum, element) => sum + element, 0) / inner : 0;
      const variance = row.reduce((sum, element) => sum + (element - mean) ** 2, 0) / inner;
      return row.map(element => (element - mean) / Math.sqrt(variance + epsilon));
    });
    return withElements(
      inputs,
      () => index => at(index) * (gain?.at(index % inner) ?? 1) + (bias?.at(index % inner) ?? 0),
    );
  };

export const carriedOut: Rules = {
  MatMul: matMul,
  'com.microsoft::FusedMatMul': matMul,
  Gemm: gemm,
  Einsum: einsum,
  Softmax: softmax,
  LayerNormalization: normalization(true),
  RMSNormalization: normalization(false),
};

import { DataType } from '../../onnx/spec.js';
import type { NodeInputs } from '../probe.js';
import {
  axisOf,
  coordinates,
  elements,
  indexOf,
  remembered,
  rounded,
  type Sample,
  sizeOf,
  stridesOf,
  UnknownSample,
} from '../sample.js';
import type { Rule, Rules } from './rule.js';

/** Operators that combine elements along axes. */

/** Longest reduction that is carried out; longer ones are taken as data. */
const MOST_TERMS = 1 << 16;

function reduce(
  start: number,
  fold: (sum: number, x: number) => number,
  finish = (sum: number, _count: number) => sum,
): Rule {
  return inputs => {
    const x = inputs.sample(0);
    const rank = x.dims.length;
    const given = inputs.integersOrAttribute(1, 'axes');
    const none = given === null || given.length === 0;
    if (none && inputs.node.int('noop_with_empty_axes', 0) === 1) return [x];
    const axes = new Set(none ? x.dims.keys() : given.map(axis => axisOf(axis, rank)));
    const keep = inputs.node.int('keepdims', 1) === 1;
    const kept = x.dims.map((dim, axis) => (axes.has(axis) ? 1 : dim));
    const dims = keep ? kept : x.dims.filter((_, axis) => !axes.has(axis));
    const inner = x.dims.map((dim, axis) => (axes.has(axis) ? dim : 1));
    const count = sizeOf(inner);
    if (count > MOST_TERMS) return [inputs.data(dims, x.dataType)];
    const strides = stridesOf(x.dims);
    const at = (index: number) => {
      const base = dot(coordinates(index, kept), strides);
      let sum = start;
      for (let i = 0; i < count; i++) sum = fold(sum, x.at(base + dot(coordinates(i, inner), strides)));
      return finish(sum, count);
    };
    return [remembered(rounded(dims, x.dataType, at))];
  };
}

function logSumExp(a: number, b: number): number {
  const most = Math.max(a, b);
  return Number.isFinite(most) ? most + Math.log(Math.exp(a - most) + Math.exp(b - most)) : most;
}

function dot(position: readonly number[], strides: readonly number[]): number {
  return position.reduce((sum, p, axis) => sum + p * strides[axis]!, 0);
}

function arg(better: (x: number, best: number) => boolean): Rule {
  return inputs => {
    const x = inputs.sample(0);
    const axis = axisOf(inputs.node.int('axis', 0), x.dims.length);
    const last = inputs.node.int('select_last_index', 0) === 1;
    const kept = x.dims.map((dim, other) => (other === axis ? 1 : dim));
    const dims = inputs.node.int('keepdims', 1) === 1 ? kept : kept.filter((_, other) => other !== axis);
    const at = (index: number) => {
      const position = coordinates(index, kept);
      let best = 0;
      let value = x.at(indexOf(position, x.dims));
      for (let i = 1; i < x.dims[axis]!; i++) {
        position[axis] = i;
        const next = x.at(indexOf(position, x.dims));
        if (better(next, value) || (last && next === value)) [best, value] = [i, next];
      }
      return best;
    };
    return [remembered({ dims, dataType: DataType.INT64, at })];
  };
}

function cumulativeSum(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const axis = axisOf(inputs.sample(1).at(0), x.dims.length);
  const exclusive = inputs.node.int('exclusive', 0) === 1;
  const reverse = inputs.node.int('reverse', 0) === 1;
  const size = x.dims[axis]!;
  const stride = stridesOf(x.dims)[axis]!;
  const rows = new Map<number, Float64Array>();
  const at = (index: number) => {
    const i = Math.floor(index / stride) % size;
    const base = index - i * stride;
    let sums = rows.get(base);
    if (sums === undefined) {
      sums = new Float64Array(size);
      let sum = 0;
      for (let k = 0; k < size; k++) {
        const place = reverse ? size - 1 - k : k;
        const value = x.at(base + place * stride);
        sums[place] = exclusive ? sum : sum + value;
        sum += value;
      }
      rows.set(base, sums);
    }
    return sums[i]!;
  };
  return [rounded(x.dims, x.dataType, at)];
}

function nonZero(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const found: number[][] = [];
  elements(x).forEach((value, index) => {
    if (value !== 0) found.push(coordinates(index, x.dims));
  });
  const dims = [x.dims.length, found.length];
  return [
    { dims, dataType: DataType.INT64, at: i => found[i % found.length]![Math.floor(i / found.length)]! },
  ];
}

/** Shape only: which elements are largest depends on data. */
function topK(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const axis = axisOf(inputs.node.int('axis', -1), x.dims.length);
  const count = inputs.integers(1)?.[0] ?? inputs.node.int('k', -1);
  if (count < 0) throw new UnknownSample(`${inputs.node.label} has no count`);
  const dims = x.dims.map((dim, other) => (other === axis ? count : dim));
  return [inputs.data(dims, x.dataType, 0), inputs.data(dims, DataType.INT64, 1)];
}

export const reductions: Rules = {
  ReduceSum: reduce(0, (sum, x) => sum + x),
  ReduceMean: reduce(
    0,
    (sum, x) => sum + x,
    (sum, count) => sum / count,
  ),
  ReduceMax: reduce(Number.NEGATIVE_INFINITY, Math.max),
  ReduceMin: reduce(Number.POSITIVE_INFINITY, Math.min),
  ReduceProd: reduce(1, (product, x) => product * x),
  ReduceSumSquare: reduce(0, (sum, x) => sum + x * x),
  ReduceL1: reduce(0, (sum, x) => sum + Math.abs(x)),
  ReduceL2: reduce(0, (sum, x) => sum + x * x, Math.sqrt),
  ReduceLogSum: reduce(0, (sum, x) => sum + x, Math.log),
  ReduceLogSumExp: reduce(Number.NEGATIVE_INFINITY, logSumExp),
  ArgMax: arg((x, best) => x > best),
  ArgMin: arg((x, best) => x < best),
  CumSum: cumulativeSum,
  NonZero: nonZero,
  TopK: topK,
};

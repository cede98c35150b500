import { isFloating } from '../../graph/data-type.js';
import { DataType } from '../../onnx/spec.js';
import type { NodeInputs } from '../probe.js';
import {
  axisOf,
  broadcastDims,
  broadcastReader,
  remembered,
  rounded,
  type Sample,
  sizeOf,
  stridesOf,
} from '../sample.js';
import type { Rule, Rules } from './rule.js';

/** Operators that work element by element, with broadcasting. */

function unary(compute: (x: number) => number, dataType?: DataType): Rule {
  return inputs => {
    const x = inputs.sample(0);
    return [remembered(rounded(x.dims, dataType ?? x.dataType, index => compute(x.at(index))))];
  };
}

function pointwise(
  inputs: NodeInputs,
  operands: readonly Sample[],
  dataType: DataType,
  compute: (read: readonly ((index: number) => number)[], index: number) => number,
): readonly Sample[] {
  const dims = broadcastDims(
    operands.map(operand => operand.dims),
    inputs.node.label,
  );
  const readers = operands.map(operand => broadcastReader(operand, dims));
  return [remembered(rounded(dims, dataType, index => compute(readers, index)))];
}

function binary(compute: (a: number, b: number, dataType: DataType) => number, dataType?: DataType): Rule {
  return inputs => {
    const a = inputs.sample(0);
    const b = inputs.sample(1);
    return pointwise(inputs, [a, b], dataType ?? a.dataType, ([x, y], index) =>
      compute(x!(index), y!(index), a.dataType),
    );
  };
}

function variadic(
  start: number,
  fold: (sum: number, x: number) => number,
  finish = (sum: number, _n: number) => sum,
): Rule {
  return inputs => {
    const operands = inputs.all();
    return pointwise(inputs, operands, operands[0]!.dataType, (readers, index) => {
      let sum = start;
      for (const read of readers) sum = fold(sum, read(index));
      return finish(sum, readers.length);
    });
  };
}

function cast(to: (inputs: NodeInputs) => DataType): Rule {
  return inputs => {
    const x = inputs.sample(0);
    return [rounded(x.dims, to(inputs), x.at)];
  };
}

function clip(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const least = inputs.optional(1)?.at(0) ?? inputs.node.float('min', Number.NEGATIVE_INFINITY);
  const most = inputs.optional(2)?.at(0) ?? inputs.node.float('max', Number.POSITIVE_INFINITY);
  return [{ ...x, at: index => Math.min(Math.max(x.at(index), least), most) }];
}

/** Remainder with the sign of the divisor, or of the dividend where the node says `fmod`. */
function modulo(inputs: NodeInputs): readonly (Sample | null)[] {
  const like =
    inputs.node.int('fmod', 0) === 1
      ? (a: number, b: number) => a % b
      : (a: number, b: number) => a - b * Math.floor(a / b);
  return binary(like)(inputs);
}

/** Reads only the branch that the condition takes. */
function where(inputs: NodeInputs): readonly Sample[] {
  const yes = inputs.sample(1);
  const operands = [inputs.sample(0), yes, inputs.sample(2)];
  return pointwise(inputs, operands, yes.dataType, ([condition, a, b], index) =>
    condition!(index) !== 0 ? a!(index) : b!(index),
  );
}

/** Abramowitz and Stegun 7.1.26, good to 1.5e-7. */
function erf(x: number): number {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const series =
    t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - series * Math.exp(-x * x));
}

/** Halves go to the even neighbor. */
function roundHalfToEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** A value for each element, or for each place along an axis; null where they are of blocks. */
function alongAxis(inputs: NodeInputs, x: Sample, value: Sample): ((index: number) => number) | null {
  if (sizeOf(value.dims) === 1) return () => value.at(0);
  if (value.dims.length !== 1 || inputs.node.int('block_size', 0) !== 0) return null;
  const axis = axisOf(inputs.node.int('axis', 1), x.dims.length);
  const stride = stridesOf(x.dims)[axis]!;
  return index => value.at(Math.floor(index / stride) % x.dims[axis]!);
}

const INTEGER_RANGES: ReadonlyMap<DataType, readonly [number, number]> = new Map([
  [DataType.UINT8, [0, 255]],
  [DataType.INT8, [-128, 127]],
  [DataType.UINT16, [0, 65535]],
  [DataType.INT16, [-32768, 32767]],
]);

/** Shape only for blocks and types that hold no such integers. */
function quantize(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const zero = inputs.optional(2);
  const dataType = zero?.dataType ?? DataType.UINT8;
  const range = INTEGER_RANGES.get(dataType);
  const scaleAt = alongAxis(inputs, x, inputs.sample(1));
  const zeroAt = zero === null ? () => 0 : alongAxis(inputs, x, zero);
  if (range === undefined || scaleAt === null || zeroAt === null) return [inputs.data(x.dims, dataType)];
  const [least, most] = range;
  const at = (index: number) => {
    const steps = roundHalfToEven(x.at(index) / scaleAt(index)) + zeroAt(index);
    return Math.min(Math.max(steps, least), most);
  };
  return [{ dims: x.dims, dataType, at }];
}

function dequantize(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const scale = inputs.sample(1);
  const zero = inputs.optional(2);
  const scaleAt = alongAxis(inputs, x, scale);
  const zeroAt = zero === null ? () => 0 : alongAxis(inputs, x, zero);
  if (scaleAt === null || zeroAt === null) return [inputs.data(x.dims, scale.dataType)];
  return [rounded(x.dims, scale.dataType, index => (x.at(index) - zeroAt(index)) * scaleAt(index))];
}

const { BOOL } = DataType;
const truth = (holds: boolean) => (holds ? 1 : 0);
const xor = (a: number, b: number) => truth((a !== 0) !== (b !== 0));
const and = (a: number, b: number) => truth(a !== 0 && b !== 0);
const or = (a: number, b: number) => truth(a !== 0 || b !== 0);

export const elementwise: Rules = {
  Abs: unary(Math.abs),
  Neg: unary(x => -x),
  Sign: unary(Math.sign),
  Ceil: unary(Math.ceil),
  Floor: unary(Math.floor),
  Round: unary(roundHalfToEven),
  Reciprocal: unary(x => 1 / x),
  Sqrt: unary(Math.sqrt),
  Exp: unary(Math.exp),
  Log: unary(Math.log),
  Sin: unary(Math.sin),
  Cos: unary(Math.cos),
  Asinh: unary(Math.asinh),
  Acosh: unary(Math.acosh),
  Atanh: unary(Math.atanh),
  Tanh: unary(Math.tanh),
  Erf: unary(erf),
  Sigmoid: unary(x => 1 / (1 + Math.exp(-x))),
  Softplus: unary(x => Math.log1p(Math.exp(-Math.abs(x))) + Math.max(x, 0)),
  Relu: unary(x => Math.max(x, 0)),
  Not: unary(x => truth(x === 0), BOOL),
  BitwiseNot: unary(x => ~x),
  IsNaN: unary(x => truth(Number.isNaN(x)), BOOL),
  IsInf: unary(x => truth(Math.abs(x) === Number.POSITIVE_INFINITY), BOOL),
  Cast: cast(inputs => inputs.node.int('to', DataType.UNDEFINED)),
  CastLike: cast(inputs => inputs.sample(1).dataType),
  Clip: clip,
  Add: binary((a, b) => a + b),
  Sub: binary((a, b) => a - b),
  Mul: binary((a, b) => a * b),
  // Division of integers truncates; `rounded` does that.
  Div: binary((a, b, dataType) => (isFloating(dataType) || b !== 0 ? a / b : 0)),
  Pow: binary((a, b) => a ** b),
  Mod: modulo,
  Equal: binary((a, b) => truth(a === b), BOOL),
  Less: binary((a, b) => truth(a < b), BOOL),
  LessOrEqual: binary((a, b) => truth(a <= b), BOOL),
  Greater: binary((a, b) => truth(a > b), BOOL),
  GreaterOrEqual: binary((a, b) => truth(a >= b), BOOL),
  And: binary(and, BOOL),
  Or: binary(or, BOOL),
  Xor: binary(xor, BOOL),
  BitwiseAnd: binary((a, b) => a & b),
  BitwiseOr: binary((a, b) => a | b),
  BitwiseXor: binary((a, b) => a ^ b),
  Max: variadic(Number.NEGATIVE_INFINITY, Math.max),
  Min: variadic(Number.POSITIVE_INFINITY, Math.min),
  Sum: variadic(0, (sum, x) => sum + x),
  Mean: variadic(
    0,
    (sum, x) => sum + x,
    (sum, count) => sum / count,
  ),
  Where: where,
  QuantizeLinear: quantize,
  DequantizeLinear: dequantize,
  'com.microsoft::QuantizeLinear': quantize,
  'com.microsoft::DequantizeLinear': dequantize,
};

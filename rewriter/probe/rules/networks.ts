import { isFloating } from '../../graph/data-type.js';
import { DataType } from '../../onnx/spec.js';
import type { NodeInputs } from '../probe.js';
import {
  axisOf,
  broadcastDims,
  remembered,
  rounded,
  type Sample,
  SizeConflict,
  sizeOf,
  UnknownSample,
} from '../sample.js';
import type { Rule, Rules } from './rule.js';

/** Operators of networks: their shapes are followed; their results count as data. */

/** Output shaped and typed like an input. */
export function like(slot = 0): Rule {
  return inputs => {
    const { dims, dataType } = inputs.sample(slot);
    return [inputs.data(dims, dataType)];
  };
}

/** Longest inner product of integers or small floats that is carried out, as masks make them. */
const MOST_TERMS = 4096;

export function matMul(inputs: NodeInputs): readonly Sample[] {
  return [product(inputs, inputs.sample(0), inputs.sample(1), false, false)];
}

function fusedMatMul(inputs: NodeInputs): readonly Sample[] {
  const { node } = inputs;
  const { dims, dataType } = product(
    inputs,
    inputs.sample(0),
    inputs.sample(1),
    node.int('transA', 0) === 1,
    node.int('transB', 0) === 1,
  );
  return [inputs.data(dims, dataType)];
}

/** A product of the inputs in these slots, of this type. */
export function productOfType(
  inputs: NodeInputs,
  [left, right]: readonly [number, number],
  dataType: DataType,
): readonly Sample[] {
  const { dims } = product(inputs, inputs.sample(left), inputs.sample(right), false, false);
  return [inputs.data(dims, dataType)];
}

/** Matrix product with numpy's rules; carried out for integers (as masks use it), data otherwise. */
function product(
  inputs: NodeInputs,
  left: Sample,
  right: Sample,
  transLeft: boolean,
  transRight: boolean,
): Sample {
  const a = left.dims.length === 1 ? [1, ...left.dims] : [...left.dims];
  const b = right.dims.length === 1 ? [...right.dims, 1] : [...right.dims];
  if (transLeft) a.push(...a.splice(-2).reverse());
  if (transRight) b.push(...b.splice(-2).reverse());
  const [rows, depth] = a.slice(-2) as [number, number];
  const [inner, columns] = b.slice(-2) as [number, number];
  if (depth !== inner) throw new SizeConflict(depth, inner, inputs.node.label);
  const lead = broadcastDims([a.slice(0, -2), b.slice(0, -2)], inputs.node.label);
  const dims = [...lead];
  if (left.dims.length > 1) dims.push(rows);
  if (right.dims.length > 1) dims.push(columns);
  const plain = left.dims.length === right.dims.length && left.dims.length > 1 && !transLeft && !transRight;
  const unbroadcast = sizeOf(lead) === sizeOf(a.slice(0, -2)) && sizeOf(lead) === sizeOf(b.slice(0, -2));
  if (!plain || !unbroadcast || depth > MOST_TERMS || isFloating(left.dataType))
    return inputs.data(dims, left.dataType);
  return remembered(
    rounded(dims, left.dataType, index => {
      const column = index % columns;
      const row = Math.floor(index / columns);
      const base = Math.floor(row / rows) * depth * columns;
      let sum = 0;
      for (let k = 0; k < depth; k++) sum += left.at(row * depth + k) * right.at(base + k * columns + column);
      return sum;
    }),
  );
}

export function gemm(inputs: NodeInputs, rightSlot = 1): readonly Sample[] {
  const a = inputs.sample(0);
  const b = inputs.sample(rightSlot);
  if (a.dims.length !== 2 || b.dims.length !== 2) throw new UnknownSample('operands of other ranks than 2');
  const [rows, depth] = inputs.node.int('transA', 0) === 1 ? [...a.dims].reverse() : a.dims;
  const [inner, columns] = inputs.node.int('transB', 0) === 1 ? [...b.dims].reverse() : b.dims;
  if (depth !== inner) throw new SizeConflict(depth ?? 0, inner ?? 0, inputs.node.label);
  return [inputs.data([rows!, columns!], a.dataType)];
}

/** Products with quantized weights `[columns, blocks, ...]`, whose sizes are attributes. */
export function matMulNBits(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  return [inputs.data([...x.dims.slice(0, -1), inputs.node.int('N', 0)], x.dataType)];
}

/** Letters of the axes that an ellipsis stands for, the last one last. */
const ELLIPSIS = 'ABCDEFGH';

/**
 * Terms of an Einsum equation: letters of each operand and of the result. An ellipsis is spelled out by the ranks
 * of the operands; null where it has one and they are not given.
 */
export function parseEinsum(
  equation: string,
  ranks: readonly number[] | null = null,
): { operands: string[]; result: string } | null {
  const compact = equation.replaceAll(' ', '');
  if (compact.includes('...') && (ranks === null || !compact.includes('->') || /[A-H]/.test(compact)))
    return null;
  const lengths = compact
    .split('->')[0]!
    .split(',')
    .map((term, n) => (term.includes('...') ? (ranks?.[n] ?? 0) - (term.length - 3) : 0));
  const spelled = (count: number) => ELLIPSIS.slice(ELLIPSIS.length - count);
  let operand = 0;
  const text = compact
    .split(/(?=,|->)/)
    .map(term => term.replace('...', spelled(lengths[operand++] ?? Math.max(...lengths))))
    .join('');
  const [left = '', right] = text.split('->');
  const operands = left.split(',');
  if (right !== undefined) return { operands, result: right };
  const letters = [...operands.join('')];
  const once = letters.filter(letter => letters.indexOf(letter) === letters.lastIndexOf(letter));
  return { operands, result: once.sort().join('') };
}

function einsum(inputs: NodeInputs): readonly Sample[] {
  const samples = inputs.all();
  const ranks = samples.map(({ dims: its }) => its.length);
  const terms = parseEinsum(inputs.node.text('equation', ''), ranks);
  if (terms === null) throw new UnknownSample(`the equation of ${inputs.node.label}`);
  const sizes = new Map<string, number>();
  samples.forEach((sample, i) => {
    sample.dims.forEach((dim, axis) => {
      const letter = terms.operands[i]?.[axis] ?? '';
      const known = sizes.get(letter) ?? 1;
      if (known !== 1 && dim !== 1 && known !== dim) throw new SizeConflict(known, dim, inputs.node.label);
      sizes.set(letter, Math.max(known, dim));
    });
  });
  const dims = [...terms.result].map(letter => sizes.get(letter) ?? 1);
  return [inputs.data(dims, samples[0]!.dataType)];
}

/** Spatial sizes of a convolution or a pooling window. */
function windowed(inputs: NodeInputs, spatial: readonly number[], kernel: readonly number[]): number[] {
  const { node } = inputs;
  const strides = node.ints('strides') ?? spatial.map(() => 1);
  const dilations = node.ints('dilations') ?? spatial.map(() => 1);
  const pads = node.ints('pads') ?? spatial.flatMap(() => [0, 0]);
  const same = node.text('auto_pad', 'NOTSET').startsWith('SAME');
  const round = node.int('ceil_mode', 0) === 1 ? Math.ceil : Math.floor;
  return spatial.map((size, i) => {
    if (same) return Math.ceil(size / strides[i]!);
    const reach = dilations[i]! * (kernel[i]! - 1) + 1;
    const result = round((size + pads[i]! + pads[i + spatial.length]! - reach) / strides[i]!) + 1;
    if (result < 1) throw new UnknownSample(`${size} elements are too few for ${node.label}`);
    return result;
  });
}

/** Of the type of the first input unless another is given. */
export function convolution(inputs: NodeInputs, weightSlot = 1, dataType?: DataType): readonly Sample[] {
  const x = inputs.sample(0);
  const weights = inputs.sample(weightSlot);
  const spatial = windowed(inputs, x.dims.slice(2), weights.dims.slice(2));
  return [inputs.data([x.dims[0]!, weights.dims[0]!, ...spatial], dataType ?? x.dataType)];
}

/** Weights are [input channels, output channels of a group, ...]. */
function transposedConvolution(inputs: NodeInputs): readonly Sample[] {
  const { node } = inputs;
  const x = inputs.sample(0);
  const weights = inputs.sample(1);
  const spatial = x.dims.slice(2);
  const strides = node.ints('strides') ?? spatial.map(() => 1);
  const dilations = node.ints('dilations') ?? spatial.map(() => 1);
  const pads = node.ints('pads') ?? spatial.flatMap(() => [0, 0]);
  const more = node.ints('output_padding') ?? spatial.map(() => 0);
  if (node.has('output_shape') || node.has('auto_pad')) throw new UnknownSample(`the size of ${node.label}`);
  const sizes = spatial.map((size, i) => {
    const reach = dilations[i]! * (weights.dims[i + 2]! - 1) + 1;
    return strides[i]! * (size - 1) + more[i]! + reach - pads[i]! - pads[i + spatial.length]!;
  });
  return [inputs.data([x.dims[0]!, weights.dims[1]! * node.int('group', 1), ...sizes], x.dataType)];
}

/** Sizes, or factors of them that lead to the whole numbers below, of all axes or of those named. */
function resize(inputs: NodeInputs): readonly Sample[] {
  const { node } = inputs;
  const x = inputs.sample(0);
  if (node.text('keep_aspect_ratio_policy', 'stretch') !== 'stretch')
    throw new UnknownSample(`the size of ${node.label}`);
  const axes = node.ints('axes') ?? x.dims.map((_, axis) => axis);
  const sizes = inputs.integers(3);
  const scales = sizes === null ? inputs.sample(node.opset < 11 ? 1 : 2) : null;
  const dims = [...x.dims];
  for (const [i, axis] of axes.entries()) {
    const at = axisOf(axis, dims.length);
    dims[at] = sizes?.[i] ?? Math.floor(dims[at]! * scales!.at(i));
  }
  return [inputs.data(dims, x.dataType)];
}

export function pooling(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const spatial = windowed(inputs, x.dims.slice(2), inputs.node.ints('kernel_shape') ?? []);
  return [inputs.data([...x.dims.slice(0, 2), ...spatial], x.dataType)];
}

export function globalPooling(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  return [inputs.data([...x.dims.slice(0, 2), ...x.dims.slice(2).map(() => 1)], x.dataType)];
}

/** Squares of pixels become channels, or the other way around. */
function blocks(inputs: NodeInputs, power: 1 | -1): readonly Sample[] {
  const x = inputs.sample(0);
  const [batch, channels, ...spatial] = x.dims as [number, number, ...number[]];
  const factor = inputs.node.int('blocksize', 1) ** power;
  return [
    inputs.data(
      [batch, Math.round(channels / factor ** 2), ...spatial.map(size => size * factor)],
      x.dataType,
    ),
  ];
}

/** Pixels at the places of a grid [batch, ...spatial, 2 or 3]. */
function gridSample(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const spatial = inputs.sample(1).dims.slice(1, -1);
  return [inputs.data([...x.dims.slice(0, 2), ...spatial], x.dataType)];
}

/** All hidden states, then the last ones. */
function recurrent(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const directions = inputs.sample(1).dims[0]!;
  const hidden = inputs.sample(2).dims[2]!;
  const batchFirst = inputs.node.int('layout', 0) === 1;
  const [length, batch] = batchFirst ? [x.dims[1]!, x.dims[0]!] : [x.dims[0]!, x.dims[1]!];
  const all = batchFirst ? [batch, length, directions, hidden] : [length, directions, batch, hidden];
  const last = batchFirst ? [batch, directions, hidden] : [directions, batch, hidden];
  return [all, last, last].map((dims, slot) => inputs.data(dims, x.dataType, slot));
}

/** Outputs besides the first (means, masks, sums) are followed where they have the input's shape. */
function skipNormalization(inputs: NodeInputs): readonly (Sample | null)[] {
  const { dims, dataType } = inputs.sample(0);
  return [inputs.data(dims, dataType), null, null, inputs.data(dims, dataType, 3)];
}

/** Attention of opset 23: shaped like the query, with the value's head size. */
function attention(inputs: NodeInputs): readonly (Sample | null)[] {
  const query = inputs.sample(0);
  const value = inputs.sample(2);
  const dims = [...query.dims];
  if (dims.length === 4) dims[3] = value.dims[3]!;
  else dims[2] = (value.dims[2]! / inputs.node.int('kv_num_heads', 1)) * inputs.node.int('q_num_heads', 1);
  const [keyLength, valueLength] = [inputs.sample(1), value].map(({ dims: its }) => its.at(-2)!);
  if (keyLength !== valueLength) throw new SizeConflict(keyLength!, valueLength!, inputs.node.label);
  const mask = inputs.optional(3);
  const rows = query.dims.at(-2) ?? 1;
  const columns = mask?.dims.at(-1) ?? 1;
  // The mask may be shorter than the keys but not longer; a square mask fits no other number of rows.
  if (mask !== null) broadcastDims([mask.dims, [rows, columns]], inputs.node.label);
  const past = inputs.optional(4)?.dims.at(-2) ?? 0;
  const keys = past + keyLength!;
  if (columns > keys) throw new SizeConflict(keys, columns, inputs.node.label);
  return [inputs.data(dims, query.dataType), ...[1, 2].map(slot => joinedCache(inputs, slot, slot + 3))];
}

/** present = past followed by the new keys or values, for 4-D inputs. */
function joinedCache(inputs: NodeInputs, fresh: number, past: number): Sample | null {
  const now = inputs.sample(fresh);
  const before = inputs.optional(past);
  if (before === null || now.dims.length !== 4) return null;
  return inputs.data(
    [now.dims[0]!, now.dims[1]!, now.dims[2]! + before.dims[2]!, now.dims[3]!],
    now.dataType,
    fresh,
  );
}

/** com.microsoft.MultiHeadAttention: hidden sizes of the value behind the query's rows. */
function multiHeadAttention(inputs: NodeInputs): readonly Sample[] {
  const query = inputs.sample(0);
  const value = inputs.optional(2);
  const [batch, rows] = query.dims as [number, number];
  const heads = inputs.node.int('num_heads', 1);
  if (value === null) return [inputs.data([batch, rows, heads * query.dims.at(-1)!], query.dataType)];
  const hidden = value.dims.length === 4 ? heads * value.dims[3]! : value.dims[2]!;
  return [inputs.data([batch, rows, hidden], query.dataType)];
}

/** com.microsoft.Attention: the value part of the merged weights behind the input's rows. */
function projectingAttention(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const hidden = inputs.node.ints('qkv_hidden_sizes')?.[2] ?? inputs.sample(1).dims[1]! / 3;
  return [inputs.data([x.dims[0]!, x.dims[1]!, hidden], x.dataType)];
}

function groupQueryAttention(inputs: NodeInputs): readonly Sample[] {
  const query = inputs.sample(0);
  const heads = inputs.node.int('num_heads', 1);
  const groups = inputs.node.int('kv_num_heads', 1);
  const packed = inputs.optional(1) === null;
  const hidden = packed ? (query.dims[2]! * heads) / (heads + 2 * groups) : query.dims[2]!;
  return [inputs.data([query.dims[0]!, query.dims[1]!, hidden], query.dataType)];
}

/** ai.onnx.RotaryEmbedding takes the data first; so does com.microsoft's. */
const sameShape = [
  'Softmax',
  'LogSoftmax',
  'Hardmax',
  'LayerNormalization',
  'RMSNormalization',
  'SimplifiedLayerNormalization',
  'BatchNormalization',
  'InstanceNormalization',
  'GroupNormalization',
  'LpNormalization',
  'MeanVarianceNormalization',
  'LRN',
  'Gelu',
  'Elu',
  'Celu',
  'Selu',
  'LeakyRelu',
  'PRelu',
  'ThresholdedRelu',
  'HardSigmoid',
  'HardSwish',
  'Mish',
  'Swish',
  'Softsign',
  'Tan',
  'Asin',
  'Acos',
  'Atan',
  'Sinh',
  'Cosh',
  'RotaryEmbedding',
  'TensorScatter',
  'RandomNormalLike',
  'RandomUniformLike',
  'com.microsoft::Gelu',
  'com.microsoft::FastGelu',
  'com.microsoft::BiasGelu',
  'com.microsoft::QuickGelu',
  'com.microsoft::RotaryEmbedding',
  'com.microsoft::SimplifiedLayerNormalization',
];

function dynamicQuantize(inputs: NodeInputs): readonly Sample[] {
  const { dims } = inputs.sample(0);
  const { FLOAT, UINT8 } = DataType;
  return [inputs.data(dims, UINT8, 0), inputs.data([], FLOAT, 1), inputs.data([], UINT8, 2)];
}

export const networks: Rules = {
  ...Object.fromEntries(sameShape.map(type => [type, like()])),
  MatMul: matMul,
  MatMulInteger: inputs => productOfType(inputs, [0, 1], DataType.INT32),
  Gemm: inputs => gemm(inputs),
  Einsum: einsum,
  Conv: inputs => convolution(inputs),
  ConvInteger: inputs => convolution(inputs, 1, DataType.INT32),
  DeformConv: inputs => convolution(inputs),
  ConvTranspose: transposedConvolution,
  Resize: resize,
  Upsample: resize,
  DepthToSpace: inputs => blocks(inputs, 1),
  SpaceToDepth: inputs => blocks(inputs, -1),
  GridSample: gridSample,
  LSTM: recurrent,
  GRU: recurrent,
  RNN: recurrent,
  MaxPool: pooling,
  LpPool: pooling,
  AveragePool: pooling,
  GlobalAveragePool: globalPooling,
  GlobalMaxPool: globalPooling,
  GlobalLpPool: globalPooling,
  Attention: attention,
  DynamicQuantizeLinear: dynamicQuantize,
  'com.microsoft::FusedMatMul': fusedMatMul,
  'com.microsoft::MatMulNBits': matMulNBits,
  'com.microsoft::SkipLayerNormalization': skipNormalization,
  'com.microsoft::SkipSimplifiedLayerNormalization': skipNormalization,
  'com.microsoft::MultiHeadAttention': multiHeadAttention,
  'com.microsoft::Attention': projectingAttention,
  'com.microsoft::GroupQueryAttention': groupQueryAttention,
};

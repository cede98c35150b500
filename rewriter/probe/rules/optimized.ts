import { DataType } from '../../onnx/spec.js';
import type { NodeInputs } from '../probe.js';
import { axisOf, broadcastDims, type Sample } from '../sample.js';
import {
  convolution,
  gemm,
  globalPooling,
  like,
  matMul,
  matMulNBits,
  pooling,
  productOfType,
} from './networks.js';
import type { Rules } from './rule.js';

/** Operators that graph optimizers, quantizers and model builders put in the place of standard ones. */

/** Rows of a table of quantized numbers, of which a byte may hold several. */
function gatherBlockQuantized(inputs: NodeInputs): readonly Sample[] {
  const { node } = inputs;
  const data = inputs.sample(0);
  const rank = data.dims.length;
  const gathered = axisOf(node.int('gather_axis', 0), rank);
  const quantized = axisOf(node.int('quantize_axis', 1), rank);
  const perElement = data.dataType === DataType.UINT8 ? 8 / node.int('bits', 4) : 1;
  const dims = data.dims.map((dim, axis) => (axis === quantized ? dim * perElement : dim));
  dims.splice(gathered, 1, ...inputs.sample(1).dims);
  return [inputs.data(dims, inputs.sample(2).dataType)];
}

/** A product of integers that is scaled: the type of its scale. */
function scaledProduct(scale: number): (inputs: NodeInputs) => readonly Sample[] {
  return inputs => {
    const [{ dims }] = matMul(inputs) as [Sample];
    return [inputs.data(dims, inputs.sample(scale).dataType)];
  };
}

/** The sum is the second output. */
function skipGroupNorm(inputs: NodeInputs): readonly Sample[] {
  const { dims, dataType } = inputs.sample(0);
  return [inputs.data(dims, dataType), inputs.data(dims, dataType, 1)];
}

function biasSplitGelu(inputs: NodeInputs): readonly Sample[] {
  const { dims, dataType } = inputs.sample(0);
  return [inputs.data([...dims.slice(0, -1), dims.at(-1)! / 2], dataType)];
}

/** Two operands, each followed by its scale and zero point. */
function quantizedSum(inputs: NodeInputs): readonly Sample[] {
  const [a, b] = [inputs.sample(0), inputs.sample(3)];
  return [inputs.data(broadcastDims([a.dims, b.dims], inputs.node.label), a.dataType)];
}

function quantizedWhere(inputs: NodeInputs): readonly Sample[] {
  const [condition, a, b] = [inputs.sample(0), inputs.sample(1), inputs.sample(4)];
  return [inputs.data(broadcastDims([condition.dims, a.dims, b.dims], inputs.node.label), a.dataType)];
}

/** Scale and zero point of the result, then each part with its own. */
function quantizedConcat(inputs: NodeInputs): readonly Sample[] {
  const parts: Sample[] = [];
  for (let slot = 2; slot < inputs.count; slot += 3) parts.push(inputs.sample(slot));
  const { dims, dataType } = parts[0]!;
  const axis = axisOf(inputs.node.int('axis', 0), dims.length);
  const joined = parts.reduce((sum, part) => sum + part.dims[axis]!, 0);
  return [inputs.data(dims.with(axis, joined), dataType)];
}

/** Without a zero point of the result it is floating. */
function quantizedGemm(inputs: NodeInputs): readonly Sample[] {
  const { dims } = gemm(inputs, 3)[0]!;
  return [inputs.data(dims, inputs.optional(8)?.dataType ?? DataType.FLOAT)];
}

/** Out of the blocks of channels that the CPU's convolutions work on. */
function unblocked(inputs: NodeInputs): readonly Sample[] {
  const { dims, dataType } = inputs.sample(0);
  const [batch, , ...spatial] = dims as [number, number, ...number[]];
  const channels = inputs.node.int('channels', 0);
  const last = inputs.node.int('channels_last', 0) === 1;
  return [inputs.data(last ? [batch, ...spatial, channels] : [batch, channels, ...spatial], dataType)];
}

export const optimized: Rules = {
  QLinearMatMul: inputs => productOfType(inputs, [0, 3], inputs.sample(7).dataType),
  QLinearConv: inputs => convolution(inputs, 3, inputs.sample(7).dataType),
  'com.microsoft::QLinearAdd': quantizedSum,
  'com.microsoft::QLinearMul': quantizedSum,
  'com.microsoft::QLinearWhere': quantizedWhere,
  'com.microsoft::QLinearConcat': quantizedConcat,
  'com.microsoft::QLinearSoftmax': like(),
  'com.microsoft::QLinearSigmoid': like(),
  'com.microsoft::QLinearLeakyRelu': like(),
  'com.microsoft::QGemm': quantizedGemm,
  'com.microsoft.nchwc::Conv': inputs => convolution(inputs),
  'com.microsoft.nchwc::ReorderInput': like(),
  'com.microsoft.nchwc::ReorderOutput': unblocked,
  'com.microsoft.nchwc::MaxPool': pooling,
  'com.microsoft.nchwc::AveragePool': pooling,
  'com.microsoft.nchwc::GlobalMaxPool': globalPooling,
  'com.microsoft.nchwc::GlobalAveragePool': globalPooling,
  'com.microsoft::GatherBlockQuantized': gatherBlockQuantized,
  'com.microsoft::MatMulBnb4': matMulNBits,
  'com.microsoft::MatMulIntegerToFloat': scaledProduct(2),
  'com.microsoft::DynamicQuantizeMatMul': scaledProduct(0),
  'com.microsoft::FusedConv': inputs => convolution(inputs),
  'com.microsoft::FusedGemm': inputs => gemm(inputs),
  'com.microsoft::MoE': like(),
  'com.microsoft::QMoE': like(),
  'com.microsoft::BiasAdd': like(),
  'com.microsoft::GroupNorm': like(),
  'com.microsoft::SkipGroupNorm': skipGroupNorm,
  'com.microsoft::BiasSplitGelu': biasSplitGelu,
};

import { DataType } from '../../onnx/spec.js';
import type { NodeInputs } from '../probe.js';
import { axisOf, type Sample } from '../sample.js';
import { convolution, gemm, like, matMul, matMulNBits } from './networks.js';
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

export const optimized: Rules = {
  'com.microsoft::GatherBlockQuantized': gatherBlockQuantized,
  'com.microsoft::MatMulBnb4': matMulNBits,
  'com.microsoft::MatMulIntegerToFloat': scaledProduct(2),
  'com.microsoft::DynamicQuantizeMatMul': scaledProduct(0),
  'com.microsoft::FusedConv': convolution,
  'com.microsoft::FusedGemm': gemm,
  'com.microsoft::MoE': like(),
  'com.microsoft::QMoE': like(),
  'com.microsoft::BiasAdd': like(),
  'com.microsoft::GroupNorm': like(),
  'com.microsoft::SkipGroupNorm': skipGroupNorm,
  'com.microsoft::BiasSplitGelu': biasSplitGelu,
};

import assert from 'node:assert/strict';
import { InferenceSession } from 'onnxruntime-node';
import { SeededRandom } from '../../../custom-ops/seeded-random.js';
import { DataType, type TensorSpec } from '../../../rewriter/onnx/spec.js';
import { Laboratory, PLAIN } from '../../../rewriter/probe/laboratory.js';
import { elements } from '../../../rewriter/probe/sample.js';
import { Net } from '../net.js';
import { floats, int64s, uint8s } from '../onnx/builders.js';

/** One operator on stored operands: what the probe works out has to be what the runtime computes. */
interface Case {
  readonly inputs: readonly (TensorSpec | null)[];
  readonly attributes?: Parameters<Net['op']>[2];
  readonly outputs?: number;
  readonly opset?: number;
}

const random = new SeededRandom(7);
const normal = (...dims: number[]): TensorSpec => {
  const count = dims.reduce((product, dim) => product * dim, 1);
  return floats(
    '',
    dims,
    Array.from({ length: count }, () => random.normal()),
  );
};
const ints = (dims: readonly number[], values: readonly number[]) => int64s('', dims, values);
const list = (...values: number[]) => ints([values.length], values);
const bools = (dims: readonly number[], values: readonly number[]): TensorSpec => ({
  dataType: DataType.BOOL,
  dims,
  data: Uint8Array.from(values),
});
const bytes = (dims: readonly number[]) => {
  const count = dims.reduce((product, dim) => product * dim, 1);
  return uint8s(
    '',
    dims,
    Array.from({ length: count }, () => random.below(255)),
  );
};
const scalar = (value: number) => floats('', [], [value]);
/** Scale and zero point of quantized numbers. */
const quantization = () => [scalar(0.1), bytes([])];
const flags = bools([2, 3], [1, 0, 0, 1, 1, 0]);
const whole = ints([2, 3], [-7, -1, 0, 3, 5, 8]);

const CASES: Readonly<Record<string, readonly Case[]>> = {
  Abs: [{ inputs: [normal(2, 3)] }],
  Neg: [{ inputs: [normal(2, 3)] }],
  Sign: [{ inputs: [floats('', [3], [-2, 0, 5])] }],
  Ceil: [{ inputs: [normal(4)] }],
  Floor: [{ inputs: [normal(4)] }],
  Round: [{ inputs: [floats('', [6], [-2.5, -1.5, 0.5, 1.5, 2.4, 2.6])] }],
  Reciprocal: [{ inputs: [normal(4)] }],
  Sqrt: [{ inputs: [floats('', [3], [0, 2, 64])] }],
  Exp: [{ inputs: [normal(4)] }],
  Log: [{ inputs: [floats('', [3], [0.5, 1, 9])] }],
  Sin: [{ inputs: [normal(4)] }],
  Cos: [{ inputs: [normal(4)] }],
  Tanh: [{ inputs: [normal(4)] }],
  Erf: [{ inputs: [normal(4)] }],
  Sigmoid: [{ inputs: [normal(4)] }],
  Softplus: [{ inputs: [normal(4)] }],
  Relu: [{ inputs: [normal(4)] }],
  Not: [{ inputs: [flags] }],
  IsNaN: [{ inputs: [floats('', [3], [1, Number.NaN, Number.POSITIVE_INFINITY])] }],
  IsInf: [{ inputs: [floats('', [3], [1, Number.NaN, Number.NEGATIVE_INFINITY])] }],
  Cast: [
    { inputs: [floats('', [3], [-1.5, 0, 2.9])], attributes: { to: DataType.INT64 } },
    { inputs: [whole], attributes: { to: DataType.BOOL } },
    { inputs: [flags], attributes: { to: DataType.FLOAT } },
  ],
  Clip: [{ inputs: [normal(5), floats('', [], [-0.5]), floats('', [], [0.5])] }, { inputs: [normal(5)] }],
  Add: [{ inputs: [normal(2, 1, 3), normal(4, 1)] }],
  Sub: [{ inputs: [whole, list(1, 2, 3)] }],
  Mul: [{ inputs: [normal(2, 3), floats('', [], [0.125])] }],
  Div: [{ inputs: [whole, list(2, 2, 3)] }, { inputs: [normal(2, 3), normal(3)] }],
  Pow: [{ inputs: [normal(3), floats('', [], [2])] }],
  Mod: [{ inputs: [whole, list(3, -3, 4)] }, { inputs: [whole, list(3, -3, 4)], attributes: { fmod: 1 } }],
  Equal: [{ inputs: [whole, list(-7, 0, 8)] }],
  Less: [{ inputs: [whole, list(-7, 0, 8)] }],
  LessOrEqual: [{ inputs: [whole, list(-7, 0, 8)] }],
  Greater: [{ inputs: [whole, list(-7, 0, 8)] }],
  GreaterOrEqual: [{ inputs: [whole, list(-7, 0, 8)] }],
  And: [{ inputs: [flags, bools([3], [1, 1, 0])] }],
  Or: [{ inputs: [flags, bools([3], [1, 1, 0])] }],
  Xor: [{ inputs: [flags, bools([3], [1, 1, 0])] }],
  Max: [{ inputs: [normal(2, 3), normal(3), floats('', [], [0])] }],
  Min: [{ inputs: [normal(2, 3), normal(3)] }],
  Sum: [{ inputs: [normal(2, 3), normal(3)] }],
  Mean: [{ inputs: [normal(2, 3), normal(3)] }],
  Where: [{ inputs: [flags, normal(3), floats('', [], [-1e4])] }],
  Identity: [{ inputs: [normal(2, 3)] }],
  Reshape: [
    { inputs: [normal(2, 3, 4), list(0, -1)] },
    { inputs: [normal(2, 3, 4), list(4, 3, 2)] },
    { inputs: [normal(0, 3), list(0, 3)], attributes: { allowzero: 1 } },
  ],
  Flatten: [{ inputs: [normal(2, 3, 4)] }, { inputs: [normal(2, 3, 4)], attributes: { axis: -1 } }],
  Unsqueeze: [{ inputs: [normal(2, 3), list(0, -1)] }],
  Squeeze: [{ inputs: [normal(1, 3, 1)] }, { inputs: [normal(1, 3, 1), list(-1)] }],
  Transpose: [{ inputs: [normal(2, 3, 4)] }, { inputs: [normal(2, 3, 4)], attributes: { perm: [1, 2, 0] } }],
  Expand: [{ inputs: [normal(2, 1, 3), list(2, 4, 1)] }],
  Tile: [{ inputs: [normal(2, 3), list(2, 1)] }],
  Concat: [{ inputs: [normal(2, 1, 3), normal(2, 4, 3)], attributes: { axis: -2 } }],
  Slice: [
    { inputs: [normal(4, 5), list(1, -2), list(2 ** 40, 5)] },
    { inputs: [normal(4, 5), list(-1), list(-(2 ** 40)), list(1), list(-2)] },
  ],
  Split: [
    { inputs: [normal(5, 2)], outputs: 2, attributes: { axis: 0, num_outputs: 2 }, opset: 18 },
    { inputs: [normal(2, 6), list(1, 2, 3)], outputs: 3, attributes: { axis: 1 } },
  ],
  Gather: [{ inputs: [normal(3, 4), ints([2, 2], [0, -1, 2, 1])], attributes: { axis: 1 } }],
  GatherElements: [{ inputs: [normal(3, 4), ints([2, 4], [0, 1, 2, -1, 2, 1, 0, 0])] }],
  GatherND: [
    { inputs: [normal(2, 3, 4), ints([2, 2], [0, 2, -1, 1])] },
    { inputs: [normal(2, 3, 4), ints([2, 1], [2, 0])], attributes: { batch_dims: 1 } },
  ],
  ScatterND: [{ inputs: [normal(4, 3), ints([2, 1], [3, 1]), normal(2, 3)] }],
  Pad: [
    { inputs: [normal(2, 3), list(0, 1, 1, 2), floats('', [], [9])] },
    { inputs: [normal(2, 3), list(1, 0), null, list(1)], opset: 18 },
  ],
  Trilu: [{ inputs: [normal(2, 4, 5)], attributes: { upper: 0 } }, { inputs: [normal(4, 5), ints([], [1])] }],
  Shape: [{ inputs: [normal(2, 3, 4)] }, { inputs: [normal(2, 3, 4)], attributes: { start: -2, end: -1 } }],
  Size: [{ inputs: [normal(2, 3)] }],
  ConstantOfShape: [{ inputs: [list(2, 3)] }],
  Range: [
    { inputs: [ints([], [2]), ints([], [9]), ints([], [3])] },
    { inputs: [floats('', [], [1]), floats('', [], [-1]), floats('', [], [-0.5])] },
  ],
  EyeLike: [{ inputs: [normal(3, 4)], attributes: { k: 1 } }],
  OneHot: [{ inputs: [list(2, -1, 0), ints([], [3]), floats('', [2], [-1, 5])], attributes: { axis: 0 } }],
  ReduceSum: [
    { inputs: [normal(2, 3, 4), list(1)] },
    { inputs: [normal(2, 3)], attributes: { keepdims: 0 } },
  ],
  ReduceMean: [{ inputs: [normal(2, 3, 4)], attributes: { axes: [0, -1], keepdims: 0 } }],
  ReduceMax: [{ inputs: [normal(2, 3, 4)], attributes: { axes: [1] } }],
  ReduceMin: [{ inputs: [normal(2, 3, 4)], attributes: { axes: [1] } }],
  ReduceProd: [{ inputs: [normal(2, 3)], attributes: { axes: [1] } }],
  ReduceSumSquare: [{ inputs: [normal(2, 3)], attributes: { axes: [1] } }],
  ReduceL1: [{ inputs: [normal(2, 3)], attributes: { axes: [1] } }],
  ReduceL2: [{ inputs: [normal(2, 3)], attributes: { axes: [1] } }],
  ArgMax: [
    { inputs: [floats('', [2, 3], [1, 4, 4, 2, 0, 2])], attributes: { axis: 1 } },
    {
      inputs: [floats('', [2, 3], [1, 4, 4, 2, 0, 2])],
      attributes: { axis: 1, select_last_index: 1, keepdims: 0 },
    },
  ],
  ArgMin: [{ inputs: [normal(3, 2)] }],
  CumSum: [
    { inputs: [normal(2, 4), ints([], [1])] },
    { inputs: [normal(4, 2), ints([], [0])], attributes: { exclusive: 1, reverse: 1 } },
  ],
  NonZero: [{ inputs: [flags] }],
  Asinh: [{ inputs: [normal(4)] }],
  Acosh: [{ inputs: [floats('', [3], [1, 2, 9])] }],
  Atanh: [{ inputs: [floats('', [3], [-0.5, 0, 0.9])] }],
  ScatterElements: [
    { inputs: [normal(3, 4), ints([2, 2], [0, -1, 2, 1]), normal(2, 2)] },
    { inputs: [normal(3, 4), ints([2, 2], [0, 3, 2, 1]), normal(2, 2)], attributes: { axis: 1 } },
  ],
  ReduceLogSum: [{ inputs: [floats('', [2, 2], [1, 2, 3, 4])], attributes: { axes: [1] } }],
  ReduceLogSumExp: [{ inputs: [floats('', [2, 2], [-1e3, 1, 800, 801])], attributes: { axes: [1] } }],
  QuantizeLinear: [
    { inputs: [floats('', [2, 3], [-3, -0.25, 0, 0.75, 1, 90]), scalar(0.5), bytes([])] },
    { inputs: [normal(2, 3), floats('', [3], [0.1, 0.2, 0.3]), bytes([3])], attributes: { axis: -1 } },
  ],
  DequantizeLinear: [
    { inputs: [bytes([2, 3]), scalar(0.5), bytes([])] },
    { inputs: [bytes([3, 2, 2]), floats('', [2], [0.1, 0.2]), bytes([2])] },
  ],
};

/** Operators whose shapes are followed and whose elements are not: only the shape has to be right. */
const SHAPES: Readonly<Record<string, readonly Case[]>> = {
  MatMul: [
    { inputs: [normal(2, 1, 3, 4), normal(5, 4, 2)] },
    { inputs: [normal(4), normal(4, 2)] },
    { inputs: [normal(3, 4), normal(4)] },
  ],
  Gemm: [{ inputs: [normal(3, 4), normal(2, 4), normal(2)], attributes: { transB: 1 } }],
  Einsum: [{ inputs: [normal(2, 3, 4), normal(2, 5, 4)], attributes: { equation: 'bid,bjd->bji' } }],
  Conv: [
    {
      inputs: [normal(1, 2, 9, 8), normal(3, 2, 3, 2)],
      attributes: { strides: [2, 1], pads: [1, 0, 1, 1], dilations: [1, 2] },
    },
    { inputs: [normal(1, 2, 9), normal(3, 2, 4)], attributes: { auto_pad: 'SAME_UPPER', strides: [2] } },
  ],
  ConvTranspose: [
    {
      inputs: [normal(1, 4, 5, 6), normal(4, 3, 3, 2)],
      attributes: { strides: [2, 3], pads: [1, 0, 0, 1], output_padding: [1, 0], group: 2 },
    },
  ],
  Resize: [
    { inputs: [normal(1, 2, 5, 6), null, null, list(1, 2, 9, 4)] },
    { inputs: [normal(1, 2, 5, 6), null, floats('', [4], [1, 1, 2.5, 0.5])] },
    { inputs: [normal(1, 2, 5, 6), null, null, list(7, 3)], attributes: { axes: [3, -2] }, opset: 18 },
  ],
  'com.microsoft::GatherBlockQuantized': [
    {
      inputs: [bytes([5, 8]), list(4, 0, 2), normal(5, 1)],
      attributes: { block_size: 16, bits: 4, quantize_axis: 1 },
    },
  ],
  ConvInteger: [{ inputs: [bytes([1, 2, 9, 8]), bytes([3, 2, 3, 2])] }],
  DepthToSpace: [{ inputs: [normal(1, 8, 3, 2)], attributes: { blocksize: 2 } }],
  SpaceToDepth: [{ inputs: [normal(1, 2, 6, 4)], attributes: { blocksize: 2 } }],
  GridSample: [{ inputs: [normal(1, 2, 5, 6), normal(1, 3, 4, 2)] }],
  LSTM: [
    {
      inputs: [normal(5, 2, 3), normal(1, 16, 3), normal(1, 16, 4)],
      attributes: { hidden_size: 4 },
      outputs: 3,
    },
  ],
  GRU: [
    {
      inputs: [normal(5, 2, 3), normal(2, 12, 3), normal(2, 12, 4)],
      attributes: { hidden_size: 4, direction: 'bidirectional' },
      outputs: 2,
    },
  ],
  QLinearMatMul: [
    { inputs: [bytes([2, 3, 4]), ...quantization(), bytes([4, 5]), ...quantization(), ...quantization()] },
  ],
  QLinearConv: [
    { inputs: [bytes([1, 2, 9]), ...quantization(), bytes([3, 2, 4]), ...quantization(), ...quantization()] },
  ],
  'com.microsoft::QLinearAdd': [
    { inputs: [bytes([2, 1, 4]), ...quantization(), bytes([3, 4]), ...quantization(), ...quantization()] },
  ],
  'com.microsoft::QLinearWhere': [
    { inputs: [flags, bytes([2, 3]), ...quantization(), bytes([3]), ...quantization(), ...quantization()] },
  ],
  'com.microsoft::QLinearConcat': [
    {
      inputs: [...quantization(), bytes([2, 3]), ...quantization(), bytes([2, 5]), ...quantization()],
      attributes: { axis: 1 },
    },
  ],
  'com.microsoft::QGemm': [
    { inputs: [bytes([3, 4]), ...quantization(), bytes([4, 2]), ...quantization(), null, ...quantization()] },
    { inputs: [bytes([3, 4]), ...quantization(), bytes([4, 2]), ...quantization()] },
  ],
  'com.microsoft::MatMulIntegerToFloat': [
    { inputs: [bytes([2, 3, 4]), bytes([4, 5]), floats('', [1], [0.1]), floats('', [1], [0.2])] },
  ],
  'com.microsoft::DynamicQuantizeMatMul': [
    { inputs: [normal(2, 3, 4), bytes([4, 5]), floats('', [1], [0.2])] },
  ],
  'com.microsoft::FusedGemm': [{ inputs: [normal(3, 4), normal(4, 2)], attributes: { activation: 'Relu' } }],
  MaxPool: [{ inputs: [normal(1, 2, 8)], attributes: { kernel_shape: [3], strides: [2], ceil_mode: 1 } }],
  GlobalAveragePool: [{ inputs: [normal(1, 2, 8, 3)] }],
  Softmax: [{ inputs: [normal(2, 3)] }],
  LayerNormalization: [{ inputs: [normal(2, 3), normal(3), normal(3)] }],
  TopK: [{ inputs: [normal(2, 5), list(2)], outputs: 2 }],
  Attention: [
    { inputs: [normal(2, 4, 3, 8), normal(2, 2, 5, 8), normal(2, 2, 5, 6)], opset: 23 },
    {
      inputs: [normal(2, 3, 32), normal(2, 5, 16), normal(2, 5, 12)],
      attributes: { q_num_heads: 4, kv_num_heads: 2 },
      opset: 23,
    },
  ],
};

async function compare(
  opType: string,
  { inputs, attributes, outputs = 1, opset = 17 }: Case,
  values: boolean,
): Promise<void> {
  const net = new Net();
  const names = inputs.map((tensor, i) =>
    tensor === null ? '' : net.stored({ ...tensor, name: `in_${i}` }),
  );
  const results = Array.from({ length: outputs }, (_, i) => `out_${i}`);
  net.op(opType, names, attributes, results);
  const rest = { opsetImports: { '': opset, 'com.microsoft': 1 }, irVersion: 10 };
  const graph = net.load(rest);
  const probe = new Laboratory(graph).trials[0]!.probe(PLAIN);
  const samples = results.map(name => probe.sample(graph.main.resolve(name)!));
  // The runtime checks the types that the outputs are declared with.
  for (const [i, name] of results.entries()) net.output(name, undefined, samples[i]!.dataType);
  const session = await InferenceSession.create(net.bytes(rest), { graphOptimizationLevel: 'disabled' });
  const expected = await session.run({});
  await session.release();
  for (const [i, sample] of samples.entries()) {
    const { dims, data } = expected[results[i]!]!;
    assert.deepEqual(sample.dims, dims, `shape of ${results[i]}`);
    if (!values) continue;
    const numbers = Array.from(data as Iterable<number | bigint>, Number);
    const found = elements(sample);
    for (const [e, number] of numbers.entries()) {
      const close =
        Object.is(found[e], number) || Math.abs(found[e]! - number) <= 1e-6 * (1 + Math.abs(number));
      assert.ok(close, `${results[i]}[${e}]: ${found[e]} instead of ${number}`);
    }
  }
}

describe('rules of operators', () => {
  for (const [opType, cases] of Object.entries(CASES)) {
    it(`${opType}: elements as onnxruntime computes them`, async () => {
      for (const one of cases) await compare(opType, one, true);
    });
  }
  for (const [opType, cases] of Object.entries(SHAPES)) {
    it(`${opType}: shapes as onnxruntime computes them`, async () => {
      for (const one of cases) await compare(opType, one, false);
    });
  }
});

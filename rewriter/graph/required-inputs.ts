/**
 * Operators of the default domain by how many inputs, the first ones, none of their versions does without. Patterns and
 * probes read these inputs.
 */
const BY_COUNT: Readonly<Record<number, readonly string[]>> = {
  1: [
    'Cast Clip Concat Dropout Einsum Exp Flatten Identity IsNaN LogSoftmax Max Mean Min Neg Not Pad Reciprocal',
    'ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Shape Sigmoid Size Slice Softmax Split Sqrt Squeeze',
    'Sum Tanh Transpose Unsqueeze',
  ],
  2: [
    'Add And CastLike Conv ConvInteger CumSum DequantizeLinear Div Equal Expand Gather Gemm Greater',
    'GreaterOrEqual Less LessOrEqual MatMul MatMulInteger Mul Or Pow Sub Tile',
  ],
  3: ['Attention ScatterElements ScatterND Where'],
};

const REQUIRED: ReadonlyMap<string, number> = new Map(
  Object.entries(BY_COUNT).flatMap(([count, lines]) =>
    lines.flatMap(line => line.split(' ')).map(type => [type, Number(count)] as const),
  ),
);

/**
 * How many inputs, counted from the first, a node of this type cannot do without; 0 for what is not known here.
 * What this says is checked when a graph is built, so patterns take those inputs for granted.
 */
export function requiredInputs(type: string): number {
  return REQUIRED.get(type) ?? 0;
}

import type { Graph } from './graph/graph.js';
import type { Node } from './graph/node.js';
import type { Value } from './graph/value.js';
import { LAYOUT_AXES, type Layout, type Operand } from './site.js';

/** An operand that a linear layer computes for nothing else: X W + b, and then taken apart into heads. */
export interface LinearOperand {
  readonly input: string;
  /** Stored matrix [X, H*D], the channels of one head side by side; it may be cast from another type. */
  readonly weights: string;
  /** Stored vector [H*D]; null where the layer has none. */
  readonly bias: string | null;
  /** What takes the layer's output apart into heads; null where the operand has them packed. */
  readonly split: { readonly shape: string; readonly allowZero: number } | null;
  /** Layout of the layer's output, split where it is: the operand's before any transpose. */
  readonly layout: Layout;
}

/** Axis orders that lead to a layout from 'BNHD'. */
const FROM_SPLIT: Readonly<Partial<Record<Layout, readonly number[]>>> = {
  BNHD: [0, 1, 2, 3],
  BHND: [0, 2, 1, 3],
  BHDN: [0, 2, 3, 1],
};

/**
 * The linear layer behind an operand of `width` channels.
 * @param readers nodes that stop reading the operand when it is computed otherwise
 * @returns null where there is none, its weights are not stored as such, or something else reads what it computes
 */
export function linearOperand(
  { value: name, layout, projection }: Operand,
  width: number,
  graph: Graph,
  readers: ReadonlySet<Node>,
): LinearOperand | null {
  const operand = graph.resolve(name);
  if (operand === null || projection !== null) return null;
  let value: Value = operand;
  let readBy: ReadonlySet<Node> = readers;
  /** Goes on to what the node reads, where nothing else reads what it computes. */
  const enter = (node: Node): Value | null => {
    if (value.outputOf.length > 0 || !value.uses.every(use => readBy.has(use.node))) return null;
    readBy = new Set([node]);
    return node.inputs[0] ?? null;
  };
  const perm = FROM_SPLIT[layout];
  let split: LinearOperand['split'] = null;
  if (perm !== undefined) {
    if (layout !== 'BNHD') {
      const transpose = value.producer;
      if (transpose?.type !== 'Transpose' || transpose.ints('perm')?.join() !== perm.join()) return null;
      const before = enter(transpose);
      if (before === null) return null;
      value = before;
    }
    const reshape = value.producer;
    const shape = reshape?.inputs[1];
    if (reshape?.type !== 'Reshape' || !shape) return null;
    const before = enter(reshape);
    if (before === null) return null;
    split = { shape: shape.name, allowZero: reshape.int('allowzero', 0) };
    value = before;
  } else if (LAYOUT_AXES[layout].headsWithBatch || layout === 'B(HD)N') return null;
  let bias: Value | null = null;
  if (value.producer?.type === 'Add') {
    const { inputs } = value.producer;
    const stored = inputs.findIndex(input => input !== null && isStored(input, [width]));
    const product = inputs[1 - stored];
    if (stored < 0 || !product || enter(value.producer) === null) return null;
    bias = inputs[stored]!;
    value = product;
  }
  const product = value.producer;
  const [input, weights] = product?.inputs ?? [];
  if (product?.type !== 'MatMul' || !input || !weights || !isStored(weights, [null, width])) return null;
  if (enter(product) === null) return null;
  return {
    input: input.name,
    weights: weights.name,
    bias: bias?.name ?? null,
    split,
    layout: split === null ? layout : 'BNHD',
  };
}

/** Whether a value is an initializer of this shape, which callers cannot override, or a cast of one. */
function isStored({ initializer, producer, name, graph }: Value, dims: readonly (number | null)[]): boolean {
  if (producer?.type === 'Cast') {
    const source = producer.inputs[0];
    return source != null && isStored(source, dims);
  }
  return (
    initializer !== null &&
    !graph.inputs.some(input => input.name === name) &&
    initializer.dims.length === dims.length &&
    dims.every((dim, axis) => dim === null || dim === initializer.dims[axis])
  );
}

import { isFloating } from '../graph/data-type.js';
import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import type { DataType } from '../onnx/spec.js';
import { type Laboratory, PLAIN, type Trial } from '../probe/laboratory.js';
import { broadcastDims } from '../probe/sample.js';
import type { Layout } from '../site.js';
import { LAYOUT_ORDER, type LayoutSizes, type OperandRuns, sizesIn } from './layouts.js';
import type { FactorAxes } from './product.js';
import {
  canonical,
  expandView,
  identityView,
  reshapeView,
  sizeOfRuns,
  tileView,
  transposedByNode,
  type View,
} from './view.js';

/** One step upstream from an operand: `value` times `factor`, moved around by the nodes in between. */
export interface Upstream {
  readonly value: Value;
  /** Product of the constants that the operand carries and this value does not yet. */
  readonly factor: number;
  /** The node that turns this value into the previous one; null for the operand itself. */
  readonly node: Node | null;
}

/** A value that can stand for an operand of attention. */
export interface Candidate {
  readonly value: Value;
  readonly layout: Layout;
  readonly factor: number;
  readonly dataType: DataType;
  /** Sizes per trial, in the laboratory's order. */
  readonly sizes: readonly LayoutSizes[];
  /** Sizes in any other trial; null when it has another layout there. */
  sizesAt(trial: Trial): LayoutSizes | null;
}

/** How an operator reads a value: the axes of a shape, and the shape that batch axes broadcast to. */
export interface OperandAxes {
  readonly value: Value;
  /** Turns a view of the value's elements into batch and heads, rows and columns. */
  readonly runs: (view: View, trial: Trial) => OperandRuns | null;
}

/** An operand of a batched matrix product whose kept axis is the sequence, or whose summed axis is. */
export function productOperand(
  value: Value,
  axesOf: (rank: number) => FactorAxes,
  rows: 'outer' | 'inner',
  other: { readonly value: Value; readonly axesOf: (rank: number) => FactorAxes },
): OperandAxes {
  return {
    value,
    runs: (view, trial) => {
      const axes = axesOf(view.length);
      const otherDims = trial.probe(PLAIN).sample(other.value).dims;
      const sizesOf = ({ lead }: FactorAxes, sizes: readonly number[]) =>
        lead.map(axis => (axis === null ? 1 : sizes[axis]!));
      const otherLead = sizesOf(other.axesOf(otherDims.length), otherDims);
      const dims = trial.probe(PLAIN).sample(value).dims;
      const lead = axes.lead.map(axis => (axis === null ? [] : view[axis]!));
      const shape = broadcastDims([sizesOf(axes, dims), otherLead], value.name);
      return {
        lead: canonical(expandView(lead, shape).flat()),
        rows: view[rows === 'outer' ? axes.outer : axes.inner]!,
        columns: view[rows === 'outer' ? axes.inner : axes.outer]!,
      };
    },
  };
}

/** A 4-D value [B,H,N,D], or a 3-D one [B,N,H*D] of `heads` heads. */
export interface Headed {
  readonly value: Value;
  readonly heads: number;
}

/** An operand of an operator that takes heads apart itself, and repeats them for the heads of its query. */
export function headOperand({ value, heads }: Headed, query: Headed): OperandAxes {
  return {
    value,
    runs: (view, trial) => {
      const { dims } = trial.probe(PLAIN).sample(value);
      const by4 = view.length === 4;
      if (!by4 && view.length !== 3) return null;
      const split = by4 ? view : reshapeView(view, [dims[0]!, dims[1]!, heads, dims[2]! / heads]);
      if (split === null) return null;
      const [batch, one, other, columns] = split;
      const [head, rows] = by4 ? [one!, other!] : [other!, one!];
      const queryDims = trial.probe(PLAIN).sample(query.value).dims;
      const queryHeads = queryDims.length === 4 ? queryDims[1]! : query.heads;
      const repeats = { size: queryHeads / sizeOfRuns(head), stride: 0 };
      return { lead: canonical([...batch!, ...head, repeats]), rows, columns: columns! };
    },
  };
}

/** The values that an operand comes from by moving elements and multiplying by constants, nearest first. */
export function upstreamOf(operand: Value, laboratory: Laboratory): readonly Upstream[] {
  const path: Upstream[] = [{ value: operand, factor: 1, node: null }];
  for (let step = path[0]!; ; step = path.at(-1)!) {
    const node = step.value.producer;
    const next = node === null || step.value.slot !== 0 ? null : stepThrough(node, laboratory);
    if (next === null) return path;
    path.push({ value: next.value, factor: step.factor * next.factor, node });
  }
}

/** Whether an operand is a weight or another constant, however reshaped or quantized. */
export function isStored(operand: Value, laboratory: Laboratory): boolean {
  const { value } = upstreamOf(operand, laboratory).at(-1)!;
  const { initializer, producer } = value;
  if (initializer !== null || producer?.type === 'Constant') return true;
  const quantized = producer?.type.endsWith('DequantizeLinear') ? producer.inputs[0] : null;
  return quantized != null && isStored(quantized, laboratory);
}

const MOVES: ReadonlySet<string> = new Set([
  'Identity',
  'Dropout',
  'Reshape',
  'Flatten',
  'Unsqueeze',
  'Squeeze',
  'Transpose',
  'Expand',
  'Tile',
]);

function stepThrough(node: Node, laboratory: Laboratory): { value: Value; factor: number } | null {
  const [first, second] = node.inputs;
  if (first == null) return null;
  const alone = node.type === 'Concat' && node.inputs.length === 1;
  if (alone || MOVES.has(node.type)) return { value: first, factor: 1 };
  if (node.type === 'Cast') return isFloating(node.int('to', 0)) ? { value: first, factor: 1 } : null;
  if (second == null || (node.type !== 'Mul' && node.type !== 'Div')) return null;
  const divisor = laboratory.scalar(second);
  if (node.type === 'Div') return divisor === null ? null : { value: first, factor: 1 / divisor };
  if (divisor !== null) return { value: first, factor: divisor };
  const factor = laboratory.scalar(first);
  return factor === null ? null : { value: second, factor };
}

/** All values upstream of an operand, itself included, that hold it in one of the known layouts. */
export function candidatesOf(operand: OperandAxes, laboratory: Laboratory): readonly Candidate[] {
  const path = upstreamOf(operand.value, laboratory);
  const candidates: Candidate[] = [];
  for (const [i, { value, factor }] of path.entries()) {
    const nodes = path.slice(1, i + 1).map(step => step.node!);
    const first = laboratory.trials[0]!.probe(PLAIN).tryToSample(value);
    if (first === null) break;
    for (const layout of LAYOUT_ORDER) {
      const sizesAt = (trial: Trial) => {
        const sample = trial.probe(PLAIN).tryToSample(value);
        const view = sample === null ? null : viewThrough(sample.dims, nodes, trial);
        const runs = view === null ? null : operand.runs(view, trial);
        return sample === null || runs === null ? null : sizesIn(layout, sample.dims, runs);
      };
      const sizes = laboratory.trials.map(sizesAt).filter(found => found !== null);
      if (sizes.length < laboratory.trials.length) continue;
      candidates.push({ value, layout, factor, dataType: first.dataType, sizes, sizesAt });
    }
  }
  return candidates;
}

/** How a value reads a source of shape `dims`, from which `nodes` (nearest to the value first) make it. */
export function viewThrough(dims: readonly number[], nodes: readonly Node[], trial: Trial): View | null {
  let view: View | null = identityView(dims);
  for (const node of [...nodes].reverse()) {
    view = moved(view, node, trial);
    if (view === null) return null;
  }
  return view;
}

function moved(view: View, node: Node, trial: Trial): View | null {
  const dims = trial.probe(PLAIN).tryToSample(node.outputs[0]!)?.dims;
  if (dims === undefined) return null;
  switch (node.type) {
    case 'Transpose':
      return transposedByNode(view, node.ints('perm'));
    case 'Reshape':
    case 'Flatten':
    case 'Unsqueeze':
    case 'Squeeze':
      return reshapeView(view, dims);
    case 'Expand':
      return expandView(view, dims);
    case 'Tile': {
      const before = trial.probe(PLAIN).sample(node.inputs[0]!).dims;
      return tileView(
        view,
        dims.map((dim, axis) => dim / before[axis]!),
      );
    }
    default:
      // Casts and constant factors move nothing; a factor of higher rank than its operand would.
      return dims.length === view.length ? view : null;
  }
}

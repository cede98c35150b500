import type { Value } from '../graph/value.js';
import type { Extent } from '../masks/logits.js';
import { chooseOperands, outputOperand } from '../match/assemble.js';
import { upstreamOf } from '../match/operands.js';
import type { DataType } from '../onnx/spec.js';
import { type Laboratory, PLAIN, type Trial } from '../probe/laboratory.js';
import { UnknownSample } from '../probe/sample.js';
import { LAYOUT_AXES, type Layout, type Operand, type Projection } from '../site.js';
import type { Attention, ProjectedOperand, ProjectedOperands, ReadOperands } from './source-form.js';

/** Where a site's operands are, and what their shapes say. */
export interface LocatedOperands {
  readonly query: Operand;
  readonly key: Operand;
  readonly value: Operand;
  readonly output: Operand;
  readonly queryHeads: number | null;
  readonly kvHeads: number | null;
  readonly headDim: number | null;
  readonly valueDim: number | null;
  /** Constant factor that query and key carry already, and the one that they do not. */
  readonly carried: number;
  readonly missing: number;
  /** @throws UnknownSample when the operands are laid out otherwise at these sizes */
  extent(trial: Trial): Extent;
}

/** Finds the operands of attention of output type `dataType`; a text says why there are none to be had. */
export function locateOperands(
  attention: Attention,
  dataType: DataType,
  laboratory: Laboratory,
): LocatedOperands | string {
  const { operands } = attention;
  return operands.kind === 'read'
    ? locateRead(operands, attention, dataType, laboratory)
    : locateProjected(operands, attention, dataType);
}

function locateRead(
  operands: ReadOperands,
  { output, result, cache }: Attention,
  dataType: DataType,
  laboratory: Laboratory,
): LocatedOperands | string {
  const chosen = chooseOperands(operands, dataType, laboratory);
  if (typeof chosen === 'string') return chosen;
  const { query, key, value } = chosen;
  const placed = outputOperand(output, result, query.sizes, laboratory);
  if (placed === null) return 'the output has no layout of batch, heads, sequence and head size';
  const totalFactor = (operand: ReadOperands['query']) =>
    upstreamOf(operand.value, laboratory).at(-1)!.factor;
  const missing = query.factor * key.factor;
  return {
    query: operandOf(query),
    key: operandOf(key),
    value: operandOf(value),
    output: operandOf({ ...placed, dataType }),
    queryHeads: common(query.sizes.map(size => size.heads)),
    kvHeads: common(key.sizes.map(size => size.heads)),
    headDim: common(query.sizes.map(size => size.headDim)),
    valueDim: common(value.sizes.map(size => size.headDim)),
    carried: (totalFactor(operands.query) * totalFactor(operands.key)) / missing,
    missing,
    extent: trial => {
      const q = query.sizesAt(trial);
      const k = key.sizesAt(trial);
      if (q === null || k === null)
        throw new UnknownSample('query and key are laid out otherwise at this length');
      return {
        batch: q.batch,
        heads: q.heads,
        rows: q.length,
        columns: k.length + pastLength(cache, trial),
      };
    },
  };
}

function locateProjected(
  { query, key, value, queryHeads, kvHeads, headDim, valueDim }: ProjectedOperands,
  { output, cache }: Attention,
  dataType: DataType,
): LocatedOperands {
  const located = (operand: ProjectedOperand) => operandOf({ ...operand, dataType });
  const axes = { query: LAYOUT_AXES[query.layout], key: LAYOUT_AXES[key.layout] };
  return {
    query: located(query),
    key: located(key),
    value: located(value),
    output: located({ value: output, layout: query.layout, projection: null }),
    queryHeads,
    kvHeads,
    headDim,
    valueDim,
    carried: 1,
    missing: 1,
    extent: trial => {
      const { dims } = trial.probe(PLAIN).sample(query.value);
      const keys = trial.probe(PLAIN).sample(key.value).dims[axes.key.sequence] ?? 1;
      return {
        batch: dims[axes.query.batch] ?? 1,
        heads: queryHeads,
        rows: dims[axes.query.sequence] ?? 1,
        columns: keys + pastLength(cache, trial),
      };
    },
  };
}

function operandOf(located: {
  readonly value: Value;
  readonly layout: Layout;
  readonly dataType: DataType;
  readonly projection?: Projection | null;
}): Operand {
  const { value, layout, dataType, projection = null } = located;
  return { value: value.name, layout, dataType, projection };
}

/** Keys of earlier steps: the axis before the head size. */
function pastLength(cache: Attention['cache'], trial: Trial): number {
  const keys = cache?.past?.key;
  return keys === undefined ? 0 : (trial.probe(PLAIN).sample(keys).dims.at(-2) ?? 0);
}

/** The size that all trials have in common; null for a size of the input. */
function common(sizes: readonly number[]): number | null {
  return sizes.every(size => size === sizes[0]) ? sizes[0]! : null;
}

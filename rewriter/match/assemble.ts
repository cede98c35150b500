import type { Value } from '../graph/value.js';
import type { DataType } from '../onnx/spec.js';
import { type Laboratory, PLAIN, type Trial } from '../probe/laboratory.js';
import type { Layout } from '../site.js';
import { LAYOUT_ORDER, type LayoutSizes } from './layouts.js';
import { type Candidate, candidatesOf, type OperandAxes } from './operands.js';
import type { Product } from './product.js';
import { identityView, reshapeView, sameRuns, transposedByNode, transposeView, type View } from './view.js';

/** Query, key and value of a site, chosen among the values that hold them. */
export interface Operands {
  readonly query: Candidate;
  readonly key: Candidate;
  readonly value: Candidate;
}

/**
 * Chooses values for query, key and value that agree on batch and heads: of the type of the output where there
 * are any, keys and values before they are repeated for groups of query heads, laid out as operators like it
 * best, and as far upstream as that holds. A text says what does not agree.
 */
export function chooseOperands(
  axes: { readonly query: OperandAxes; readonly key: OperandAxes; readonly value: OperandAxes },
  dataType: DataType,
  laboratory: Laboratory,
): Operands | string {
  const ranked = (role: OperandAxes) =>
    [...candidatesOf(role, laboratory)].reverse().sort(byPreference(dataType));
  const queries = ranked(axes.query).filter(({ sizes }) => sizes.every(({ repeats }) => repeats === 1));
  const keys = ranked(axes.key);
  // What multiplies the values multiplies the output, which operators do not do.
  const values = ranked(axes.value).filter(({ factor }) => factor === 1);
  for (const [role, found] of [
    ['query', queries],
    ['key', keys],
    ['value', values],
  ] as const) {
    if (found.length === 0)
      return `no layout of batch, heads, sequence and head size is recognized for the ${role}`;
  }
  for (const query of queries) {
    for (const key of keys) {
      for (const value of values) if (agree(query, key, value)) return { query, key, value };
    }
  }
  return 'query, key and value do not agree on batch and heads';
}

/**
 * The output's type first, then heads apart from the batch, then more repeats, then the better layout; the order
 * among equals is kept.
 */
function byPreference(dataType: DataType): (one: Candidate, other: Candidate) => number {
  return (one, other) =>
    Number(other.dataType === dataType) - Number(one.dataType === dataType) ||
    one.sizes[0]!.batch - other.sizes[0]!.batch ||
    other.sizes[0]!.repeats - one.sizes[0]!.repeats ||
    LAYOUT_ORDER.indexOf(one.layout) - LAYOUT_ORDER.indexOf(other.layout);
}

function agree(query: Candidate, key: Candidate, value: Candidate): boolean {
  return query.sizes.every((q, t) => {
    const k = key.sizes[t]!;
    const v = value.sizes[t]!;
    return (
      q.batch === k.batch &&
      q.batch === v.batch &&
      k.heads === v.heads &&
      k.length === v.length &&
      q.heads === k.heads * k.repeats &&
      q.headDim === k.headDim
    );
  });
}

/**
 * The value that holds the output of attention in a known layout: the product itself, or what single uses
 * rearrange it into, so that heads are apart from the batch where they ever are. Null when there is none.
 */
export function outputOperand(
  product: Value,
  result: Product['result'] | { readonly heads: number },
  sizes: readonly LayoutSizes[],
  laboratory: Laboratory,
): { readonly value: Value; readonly layout: Layout } | null {
  const { trials } = laboratory;
  const targets = trials.map((trial, t) => targetViews(product, result, sizes[t]!, trial));
  let views: (View | null)[] = trials.map(trial => identityView(trial.probe(PLAIN).sample(product).dims));
  let beside: { readonly value: Value; readonly layout: Layout } | null = null;
  for (let value: Value | null = product; value !== null; ) {
    const layout = LAYOUT_ORDER.find(layout =>
      views.every((view, t) => view !== null && sameView(view, targets[t]?.[layout] ?? null)),
    );
    if (layout === '(BH)ND') beside ??= { value, layout };
    else if (layout !== undefined) return { value, layout };
    const next: Value | null = movedOnce(value);
    if (next === null) return beside;
    views = views.map((view, t) => (view === null ? null : throughMove(view, next, trials[t]!)));
    value = next;
  }
  return beside;
}

function targetViews(
  product: Value,
  result: Product['result'] | { readonly heads: number },
  { batch, heads, length }: LayoutSizes,
  trial: Trial,
): Partial<Record<Layout, View | null>> | null {
  const { dims } = trial.probe(PLAIN).sample(product);
  const source = identityView(dims);
  const total = dims.reduce((count, dim) => count * dim, 1);
  const size = total / (batch * heads * length);
  if ('heads' in result) {
    if (dims.length === 4) return { BHND: source };
    return { 'BN(HD)': source };
  }
  const { lead, rows, columns } = result(dims.length);
  const split = reshapeView(transposeView(source, [...lead, rows, columns]), [batch, heads, length, size]);
  if (split === null) return null;
  const byRows = transposeView(split, [0, 2, 1, 3]);
  const byChannels = transposeView(split, [0, 1, 3, 2]);
  const rowsFirst = transposeView(split, [2, 0, 1, 3]);
  const regrouped: Partial<Record<Layout, View | null>> = {
    'BN(HD)': reshapeView(byRows, [batch, length, heads * size]),
    'B(HD)N': reshapeView(byChannels, [batch, heads * size, length]),
    'NB(HD)': reshapeView(rowsFirst, [length, batch, heads * size]),
    'N(BH)D': reshapeView(rowsFirst, [length, batch * heads, size]),
    '(BH)ND': reshapeView(split, [batch * heads, length, size]),
  };
  return { BHND: split, BNHD: byRows, BHDN: byChannels, ...regrouped };
}

function sameView(one: View, other: View | null): boolean {
  return one.length === other?.length && one.every((runs, axis) => sameRuns(runs, other[axis]!));
}

/** The output of the only use of a value, its shape apart, if that only moves elements. */
function movedOnce(value: Value): Value | null {
  const [use, ...others] = value.uses.filter(({ node }) => node.type !== 'Shape');
  if (use === undefined || others.length > 0 || value.outputOf.length > 0 || use.slot !== 0) return null;
  const moves = ['Reshape', 'Transpose', 'Unsqueeze', 'Squeeze', 'Identity', 'Flatten'].includes(
    use.node.type,
  );
  return moves && use.node.graph === value.graph ? use.node.outputs[0]! : null;
}

function throughMove(view: View, next: Value, trial: Trial): View | null {
  const node = next.producer!;
  if (node.type === 'Transpose') {
    return transposedByNode(view, node.ints('perm'));
  }
  return reshapeView(view, trial.probe(PLAIN).sample(next).dims);
}

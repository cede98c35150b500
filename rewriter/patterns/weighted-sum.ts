import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import type { MaskFacts } from '../masks/facts.js';
import { isMatch, type Match, match } from '../match/matcher.js';
import { viewThrough } from '../match/operands.js';
import { any, bound, constant, node, oneOf, type Pattern, through } from '../match/pattern.js';
import { PRODUCTS, type Product, productOf, transposedProduct } from '../match/product.js';
import { productsBehind } from '../match/products-behind.js';
import { canonical, identityView, sameRuns } from '../match/view.js';
import { type Laboratory, PLAIN } from '../probe/laboratory.js';
import type { FusionSite } from '../site.js';
import { softmaxWithSink } from './attention-sink.js';
import { mended } from './mended-probabilities.js';
import { equalRowOf, softmaxOf, softmaxProblem } from './softmax.js';
import type { FormContext } from './source-form.js';

/**
 * A product of the probabilities that a softmax makes of `logits`, bound to that name, with anything. Rows without a visible key
 * give NaN; scaled_dot_product_attention makes them zeros, which the choice 'emptyRow' tells.
 */
export function weightedSumOf(logits: Pattern): Pattern {
  const named = bound('logits', logits);
  const softmax = oneOf('dropped', { nothing: softmaxOf(named), sink: softmaxWithSink(named) });
  const guarded = node('Where', [
    node('IsNaN', [through(any('unguarded'), 'probabilities')]),
    constant('0', value => value === 0),
    bound('unguarded', through(softmax, 'a softmax')),
  ]);
  const inOrder = through(
    oneOf('emptyRow', { nan: softmax, zeros: guarded, mended: mended(softmax) }),
    'probabilities of a softmax',
  );
  const probabilities = oneOf('turned', { not: inOrder, transposed: node('Transpose', [inOrder]) });
  return node(PRODUCTS, [probabilities, any()], { name: 'sum', commutative: true });
}

/** Why a node that multiplies is none of the products of attention. */
export function noProduct({ label }: Node): string {
  return `${label} is no product of two batches of matrices`;
}

/** The product of probabilities and values that {@link weightedSumOf} matched at `anchor`, or why it is none. */
export function weightedValues(anchor: Node, found: Match, laboratory: Laboratory): Product | string {
  const probabilities = found.nodes.get('kept') ?? found.nodes.get('softmax')!;
  const problem = softmaxProblem(found, laboratory);
  if (problem !== null) return problem;
  const sum = productOf(anchor);
  if (sum === null) return noProduct(anchor);
  const weighted = comesFrom(sum.left, probabilities, found.matched) ? sum : transposedProduct(sum);
  const behind = found.matched.slice(1, found.matched.indexOf(probabilities));
  if (weightsByRow(weighted, probabilities.outputs[0]!, behind, laboratory)) return weighted;
  return 'the probabilities are rearranged before they weight the values';
}

/** A weighted sum whose logits are made of products of computed values, and these products. */
export interface SumOfProducts {
  readonly found: Match;
  readonly sum: Product;
  readonly logits: Value;
  readonly products: readonly Node[];
}

const sumOfAnything = weightedSumOf(any('logits'));

/** The weighted sum that ends at `anchor`, however its logits are made of products; else why there is none. */
export function sumOfProducts(anchor: Node, { laboratory, graph }: FormContext): SumOfProducts | string {
  const found = match(sumOfAnything, anchor.outputs[0]!, graph.constants, value => laboratory.rank(value));
  if (!isMatch(found)) return found.reason;
  if (found.choices.some(({ alternative }) => alternative === 'mended')) {
    return 'its probabilities are changed before they weight values';
  }
  if (found.nodes.has('kept')) return 'only some of its probabilities weight values';
  const sum = weightedValues(anchor, found, laboratory);
  if (typeof sum === 'string') return sum;
  const logits = found.values.get('logits')!;
  return { found, sum, logits, products: productsBehind(logits, laboratory) };
}

/** Where a weighted sum has batch and heads, then keys and channels of the values, and rows and channels of itself. */
export interface SumLayout {
  readonly valueOrder: readonly number[];
  readonly outputOrder: readonly number[];
}

/** The layout of a weighted sum of this rank; null where it is scaled or has other batch axes. */
export function sumLayout(sum: Product, rank: number): SumLayout | null {
  const { lead: axes, inner, outer } = sum.axes.right(rank);
  const lead = axes.filter(axis => axis !== null);
  const { lead: outputLead, rows, columns } = sum.result(rank);
  if (sum.factor !== 1 || lead.length !== rank - 2 || outputLead.length !== rank - 2) return null;
  return { valueOrder: [...lead, inner, outer], outputOrder: [...outputLead, rows, columns] };
}

/** What a row becomes that sees no key: logits that are all minus infinity, or all the same, give it away. */
export function emptyRowOf({ emptyRow }: MaskFacts, found: Match): FusionSite['emptyRow'] {
  if (emptyRow === 'infinite') return guardsRows(found) ? 'zeros' : 'nan';
  return emptyRow === 'equal' ? equalRowOf(found) : emptyRow;
}

/** Whether rows without a visible key are made zeros. */
export function guardsRows({ choices }: Match): boolean {
  return choices.some(({ tag, alternative }) => tag === 'emptyRow' && alternative === 'zeros');
}

/** Why a mask is none that operators take; null where it is a band with the diagonal, of all keys or of some. */
export function maskProblem({ unclear, softcap, bias, band, padding, keyMask }: MaskFacts): string | null {
  if (softcap) return 'its scores are capped or otherwise no linear function of the products';
  if (unclear !== null) return unclear;
  if (bias !== 'none') return 'its scores have a bias';
  if (band.lower !== null) return 'its keys are limited to a sliding window';
  if (band.upper !== null && band.upper !== 0) {
    return `row i sees the keys up to i ${band.upper < 0 ? '-' : '+'} ${Math.abs(band.upper)}`;
  }
  if (padding && keyMask === null) return 'no value [batch, keys] of the graph says which keys are hidden';
  return null;
}

function comesFrom(value: Value, source: Node, matched: readonly Node[]): boolean {
  const { producer } = value;
  if (producer === source) return true;
  return (
    producer !== null && matched.includes(producer) && matched.indexOf(producer) < matched.indexOf(source)
  );
}

/**
 * Whether a product takes each row of `probabilities` for a row of weights, batch axes in their order. `behind` are
 * the nodes that make its left factor of them, nearest to it first.
 */
function weightsByRow(
  { axes }: Product,
  probabilities: Value,
  behind: readonly Node[],
  { trials }: Laboratory,
): boolean {
  return trials.every(trial => {
    const dims = trial.probe(PLAIN).tryToSample(probabilities)?.dims;
    if (dims === undefined) return true;
    const view = viewThrough(dims, behind, trial);
    if (view === null || view.length < 2 || dims.length < 2) return false;
    const { lead, outer, inner } = axes.left(view.length);
    const source = identityView(dims);
    const [rows, columns] = source.slice(-2);
    return (
      sameRuns(view[outer]!, rows!) &&
      sameRuns(view[inner]!, columns!) &&
      sameRuns(
        canonical(lead.flatMap(axis => (axis === null ? [] : view[axis]!))),
        canonical(source.slice(0, -2).flat()),
      )
    );
  });
}

import type { Node } from '../graph/node.js';
import { ancestors } from '../graph/slices.js';
import type { Value } from '../graph/value.js';
import { ScoreChain } from '../masks/score-chain.js';
import { isProjection, projectionsBehind } from '../match/data-flow.js';
import { isMatch, match } from '../match/matcher.js';
import { isStored, productOperand, upstreamOf } from '../match/operands.js';
import { any, bound, lazy, node, oneOf, type Pattern } from '../match/pattern.js';
import { PRODUCTS, productOf } from '../match/product.js';
import type { Laboratory } from '../probe/laboratory.js';
import { sinkOf } from './attention-sink.js';
import { mendingOf } from './mended-probabilities.js';
import { equalRowOf, LOGITS, softmaxOf } from './softmax.js';
import type { Attention, FormContext, Miss, SourceForm } from './source-form.js';
import { guardsRows, noProduct, weightedSumOf, weightedValues } from './weighted-sum.js';

/**
 * softmax(logits(Q K^T)) V written out in standard operators, as exporters do below opset 23: eager attention
 * and decomposed scaled_dot_product_attention alike. What stands between Q K^T and the softmax is a chain of
 * steps in any order and number; how Q, K and V come to the products is left to the operands.
 */
export const softmaxAttention: SourceForm = {
  name: 'softmax-attention',
  anchors: PRODUCTS,
  recognize,
  marks: ['Softmax', 'com.microsoft::QLinearSoftmax'],
  explain,
};

/** From the softmax back to the scores. */
const logits: Pattern = oneOf(
  'step',
  {
    scores: node(PRODUCTS, [any(), any()], { name: 'scores' }),
    add: node('Add', [lazy(() => logits), any()], { commutative: true }),
    subtract: node('Sub', [lazy(() => logits), any()]),
    multiply: node('Mul', [lazy(() => logits), any()], { commutative: true }),
    divide: node('Div', [lazy(() => logits), any()]),
    keepWhere: node('Where', [any(), lazy(() => logits), any()]),
    fillWhere: node('Where', [any(), any(), lazy(() => logits)]),
    bound: node('Max', [lazy(() => logits), any()], { commutative: true }),
    clip: node('Clip', [lazy(() => logits)], { more: true }),
    cap: node('Tanh', [lazy(() => logits)]),
    cast: node('Cast', [lazy(() => logits)]),
    identity: node('Identity', [lazy(() => logits)]),
    reshape: node(['Reshape', 'Unsqueeze', 'Squeeze', 'Flatten'], [lazy(() => logits)], { more: true }),
  },
  LOGITS,
);

const softmax = softmaxOf(bound('logits', logits));
const weightedSum = weightedSumOf(logits);

function recognize(anchor: Node, context: FormContext): Attention | Miss {
  const { laboratory, graph } = context;
  const output = anchor.outputs[0]!;
  const found = match(weightedSum, output, graph.constants, value => laboratory.rank(value));
  if (!isMatch(found)) {
    const near = found.matched.some(({ type }) => type === 'Softmax');
    return { node: found.node ?? anchor, reason: found.reason, near, nodes: found.matched };
  }
  const miss = (reason: string): Miss => ({ node: anchor, reason, near: true, nodes: found.matched });

  const scoresNode = found.nodes.get('scores')!;
  const softmaxNode = found.nodes.get('softmax')!;
  const scores = productOf(scoresNode);
  const sum = weightedValues(anchor, found, laboratory);
  if (scores === null) return miss(noProduct(scoresNode));
  if (typeof sum === 'string') return miss(sum);
  const sink = sinkOf(found, laboratory);
  if (typeof sink === 'string') return miss(sink);
  const softmaxAt = found.matched.indexOf(softmaxNode);
  const steps = stepsBetween(scoresNode, found.values.get('logits')!, found.matched);
  for (const [role, operand] of [
    ['key', scores.right],
    ['value', sum.right],
  ] as const) {
    if (isStored(operand, laboratory)) return miss(`the ${role} is a constant, as in pooling or gating`);
  }
  const chain = new ScoreChain(scoresNode.outputs[0]!, found.values.get('logits')!, steps, laboratory);
  const own = new Set(
    [scores.left, scores.right].flatMap(side => [
      ...upstreamOf(side, laboratory).map(step => step.value),
      ...projectionsBehind(side),
    ]),
  );
  for (const term of chain.terms) {
    if ([...dataBehind(term)].some(value => own.has(value))) {
      return miss(
        'the scores have a further term made from query or key, as in disentangled or relative attention',
      );
    }
  }
  const mending = mendingOf(found, laboratory);
  if (typeof mending === 'string') return miss(mending);
  const queryAxes = { value: scores.left, axesOf: scores.axes.left };
  const keyAxes = { value: scores.right, axesOf: scores.axes.right };
  return {
    operands: {
      kind: 'read',
      query: productOperand(scores.left, scores.axes.left, 'outer', keyAxes),
      key: productOperand(scores.right, scores.axes.right, 'outer', queryAxes),
      value: productOperand(sum.right, sum.axes.right, 'inner', { value: sum.left, axesOf: sum.axes.left }),
    },
    output,
    result: sum.result,
    productFactor: scores.factor,
    logits: chain,
    emptyRow:
      sink !== null
        ? { infinite: 'zeros', equal: 'zeros' }
        : (mending ?? { infinite: guardsRows(found) ? 'zeros' : 'nan', equal: equalRowOf(found) }),
    rotary: null,
    cache: null,
    sink,
    named: anchor,
    interior: interiorOf(found.matched, anchor, softmaxAt),
    nodes: new Set(found.matched),
    refusals: sum.factor === 1 ? [] : ['the weighted sum is scaled'],
  };
}

/** The matched nodes that compute `logits` from `scores`. */
function stepsBetween(scores: Node, logits: Value, matched: readonly Node[]): Node[] {
  const isStep = (node: Node | null) => node !== null && node !== scores && matched.includes(node);
  const values = ancestors(logits, ({ producer }) => isStep(producer));
  return [...values]
    .map(({ producer }) => producer)
    .filter(producer => producer !== null)
    .filter(isStep);
}

/** A softmax over products of two computed values that does not go on to weight values. */
function explain(softmaxNode: Node, context: FormContext): Miss | null {
  const { laboratory, graph } = context;
  const output = softmaxNode.outputs[0]!;
  const found = match(softmax, output, graph.constants, value => laboratory.rank(value));
  const miss = (reason: string): Miss => ({ node: softmaxNode, reason, near: true, nodes: found.matched });
  if (!isMatch(found)) {
    const behind = productBehind(softmaxNode, laboratory);
    if (behind === 'quantized') return miss(QUANTIZED);
    // A softmax of the wrong axis counts wherever it is, one of something else where products are near.
    const wrongAxis = found.matched.length === 0 && softmaxNode.type === 'Softmax';
    const told = wrongAxis || behind === 'plain' || weightsValues(softmaxNode, laboratory);
    return told ? miss(found.reason) : null;
  }
  const scores = productOf(found.nodes.get('scores')!);
  if (scores === null || isStored(scores.left, laboratory) || isStored(scores.right, laboratory)) return null;
  const [use] = output.uses;
  if (use === undefined) return miss('its probabilities are an output and weight no values');
  if (isQuantized(use.node)) return miss(QUANTIZED);
  return miss(`its probabilities go into ${use.node.label} instead of weighting values`);
}

const QUANTIZED = 'its products are quantized: rewrite the model before it is quantized';

/** Whether a node quantizes, or computes with quantized numbers. */
function isQuantized({ type }: Node): boolean {
  return /Quantize|QLinear|Integer/.test(type);
}

/** Slots of the right factor of products that take more than two inputs. */
const RIGHT_SLOTS: ReadonlyMap<string, number> = new Map([['QLinearMatMul', 3]]);

/** What a node multiplies: computed values, or one by weights; null for nodes that are no product. */
function factorsOf(node: Node, laboratory: Laboratory): 'computed' | 'weights' | null {
  if (!isProjection(node)) return null;
  const factors = [node.inputs[0], node.inputs[RIGHT_SLOTS.get(node.type) ?? 1]];
  return factors.some(factor => factor == null || isStored(factor, laboratory)) ? 'weights' : 'computed';
}

/** Nodes to look at in search of a product near a softmax: of any kind, and of quantized scores. */
const NEARBY = 24;
const NEARBY_QUANTIZED = 256;

/**
 * The kind of a product of two computed values close behind a softmax: a plain one with at most one projection in
 * between, or one of quantized numbers with none.
 */
function productBehind(softmaxNode: Node, laboratory: Laboratory): 'plain' | 'quantized' | null {
  const seen = new Set<Node>();
  const queue = [{ value: softmaxNode.inputs[0]!, projections: 0, quantized: isQuantized(softmaxNode) }];
  for (const { value, ...behind } of queue) {
    const { producer } = value;
    if (producer === null || seen.has(producer) || seen.size >= NEARBY_QUANTIZED) continue;
    seen.add(producer);
    const quantized = behind.quantized || isQuantized(producer);
    const factors = factorsOf(producer, laboratory);
    if (factors === 'computed' && quantized && behind.projections === 0) return 'quantized';
    if (factors === 'computed' && seen.size <= NEARBY) return 'plain';
    if (factors === 'weights' && behind.projections > 0) continue;
    const projections = behind.projections + (factors === 'weights' ? 1 : 0);
    for (const input of producer.inputs) {
      if (input !== null) queue.push({ value: input, projections, quantized });
    }
  }
  return null;
}

/** Operators that keep, drop, or move numbers, and put others beside them. */
const REARRANGING: ReadonlySet<string> = new Set([
  ...['Identity', 'Dropout', 'Cast', 'Where', 'Reshape', 'Flatten', 'Unsqueeze', 'Squeeze', 'Transpose'],
  ...['Expand', 'Tile', 'Pad', 'Slice', 'Split', 'Gather', 'Concat', 'ScatterND', 'ScatterElements'],
]);

/** Whether probabilities go on to weight computed values, however rearranged, as in attention by blocks. */
function weightsValues(softmaxNode: Node, laboratory: Laboratory): boolean {
  const seen = new Set<Node>([softmaxNode]);
  for (const node of seen) {
    for (const { node: user } of node.outputs.flatMap(output => output?.uses ?? [])) {
      if (factorsOf(user, laboratory) === 'computed') return true;
      if (REARRANGING.has(user.type) && seen.size < NEARBY) seen.add(user);
    }
  }
  return false;
}

function interiorOf(matched: readonly Node[], anchor: Node, softmaxAt: number): Attention['interior'] {
  return matched.flatMap((step, i) =>
    step === anchor
      ? []
      : [{ value: step.outputs[0]!, holds: i <= softmaxAt ? 'attention probabilities' : 'attention scores' }],
  );
}

/** Everything that a value is computed from, but for what only lends its shape. */
function dataBehind(value: Value): ReadonlySet<Value> {
  return ancestors(
    value,
    ({ producer }) => producer !== null && producer.type !== 'Shape' && producer.type !== 'Size',
  );
}

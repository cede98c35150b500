import type { Graph } from './graph/graph.js';
import type { Node } from './graph/node.js';
import { scopeOf } from './graph/scope.js';
import { deadNodes } from './graph/slices.js';
import type { Value } from './graph/value.js';
import { hidesLaterKeys } from './masks/causal.js';
import { type MaskFacts, maskFacts } from './masks/facts.js';
import { maskKind } from './masks/index.js';
import type { Extent } from './masks/logits.js';
import { chooseOperands, type Operands, outputOperand } from './match/assemble.js';
import { isGivenWhole, joinsCache, shareSource } from './match/data-flow.js';
import { upstreamOf } from './match/operands.js';
import { DataType } from './onnx/spec.js';
import type { Attention, FormContext } from './patterns/source-form.js';
import { PLAIN, type Trial } from './probe/laboratory.js';
import { UnknownSample } from './probe/sample.js';
import type { AttentionSite } from './site.js';

/**
 * Works out operands, scale, mask and everything else about attention that a form found.
 * @param form name of the form
 * @returns the site, or why it is none
 */
export function describeSite(
  form: string,
  attention: Attention,
  context: FormContext,
): AttentionSite | string {
  const { laboratory, graph } = context;
  const dataType = laboratory.trials[0]!.probe(PLAIN).sample(attention.output).dataType;
  const operands = chooseOperands(attention, dataType, laboratory);
  if (typeof operands === 'string') return operands;
  const { query, key, value } = operands;
  const output = outputOperand(attention.output, attention.result, query.sizes, laboratory);
  if (output === null) return 'the output has no layout of batch, heads, sequence and head size';

  const extent = (trial: Trial): Extent => extentAt(operands, trial);
  const scope = attention.named.graph;
  const facts = maskFacts(attention.logits, { laboratory, constants: graph.constants, graph: scope, extent });
  const outer = totalFactor(attention.query.value, context) * totalFactor(attention.key.value, context);
  const between = facts.factor === null ? null : facts.factor * attention.productFactor;
  const headDim = fixed(query.sizes.map(size => size.headDim));
  const past = attention.past || joinsCache(attention.key.value) || joinsCache(attention.value.value);
  const mask = maskKind(facts);
  const site = {
    id: attention.output.name,
    scope: scopeOf(attention.named),
    graphPath: pathOf(scope),
    pattern: form,
    query: { value: query.value.name, layout: query.layout },
    key: { value: key.value.name, layout: key.layout },
    value: { value: value.value.name, layout: value.layout },
    output: { value: output.value.name, layout: output.layout },
    queryHeads: fixed(query.sizes.map(size => size.heads)),
    kvHeads: fixed(key.sizes.map(size => size.heads)),
    headDim,
    scale: between === null ? null : asInverseRoot(between * outer, headDim),
    operatorScale: between === null ? null : asInverseRoot(between * query.factor * key.factor, headDim),
    mask,
    causal: hidesLaterKeys(facts),
    keyMask: facts.keyMask,
    alignment: facts.alignment,
    emptyRow: emptyRow(facts, attention),
    past,
    kind: kindOf(operands, attention, past),
    dtype: DTYPES[dataType] ?? null,
  } satisfies Omit<AttentionSite, 'nodes' | 'replaceable' | 'reason'>;
  const kept = new Set([query.value, key.value, value.value]);
  const named = facts.keyMask === null ? null : scope.resolve(facts.keyMask.value);
  if (named !== null) kept.add(named);
  const nodes = deadNodes([output.value], kept);
  const reason = refusal(site, nodes, attention, facts);
  return { ...site, nodes, replaceable: reason === null, reason };
}

const DTYPES: Readonly<Partial<Record<DataType, NonNullable<AttentionSite['dtype']>>>> = {
  [DataType.FLOAT]: 'float32',
  [DataType.FLOAT16]: 'float16',
  [DataType.BFLOAT16]: 'bfloat16',
  [DataType.DOUBLE]: 'float64',
};

function extentAt({ query, key }: Operands, trial: Trial): Extent {
  const q = query.sizesAt(trial);
  const k = key.sizesAt(trial);
  if (q === null || k === null)
    throw new UnknownSample('query and key are laid out otherwise at other lengths');
  return { batch: q.batch, heads: q.heads, rows: q.length, columns: k.length };
}

/** All constants that an operand has been multiplied by since it was projected. */
function totalFactor(operand: Value, { laboratory }: FormContext): number {
  return upstreamOf(operand, laboratory).at(-1)!.factor;
}

/** The size that all trials have in common; null for a size of the input. */
function fixed(sizes: readonly number[]): number | null {
  return sizes.every(size => size === sizes[0]) ? sizes[0]! : null;
}

/**
 * Exporters store 1/sqrt(d), or its root on both sides, in single precision; a scale that is 1/sqrt(d) but for
 * that rounding is 1/sqrt(d).
 */
function asInverseRoot(scale: number, headDim: number | null): number {
  const exact = headDim === null ? Number.NaN : 1 / Math.sqrt(headDim);
  return Math.abs(scale / exact - 1) < 2 ** -22 ? exact : scale;
}

/** Names of the nodes around a subgraph, outermost first. */
function pathOf(graph: Graph): readonly string[] {
  if (graph.owner === null) return [];
  const { node } = graph.owner;
  return [...pathOf(node.graph), node.name !== '' ? node.name : (node.outputs[0]?.name ?? '')];
}

function emptyRow(facts: MaskFacts, { emptySoftmax }: Attention): AttentionSite['emptyRow'] {
  switch (facts.emptyRow) {
    case 'equal':
      return 'mean';
    case 'infinite':
      return emptySoftmax;
    default:
      return facts.emptyRow;
  }
}

function kindOf({ query, key }: Operands, attention: Attention, past: boolean): AttentionSite['kind'] {
  if (past) return 'cached';
  if (query.sizes.some((size, t) => size.length !== key.sizes[t]!.length)) return 'cross';
  const given = isGivenWhole(attention.key.value) && !isGivenWhole(attention.query.value);
  return given || !shareSource(attention.query.value, attention.key.value) ? 'cross' : 'self';
}

/** Why no operator may replace the site; null when one may. */
function refusal(
  site: Omit<AttentionSite, 'nodes' | 'replaceable' | 'reason'>,
  nodes: readonly Node[],
  attention: Attention,
  facts: MaskFacts,
): string | null {
  const reasons = [...attention.refusals];
  for (const { value, holds } of attention.interior) {
    const use = value.uses.find(({ node }) => !nodes.includes(node) && !attention.nodes.has(node));
    if (value.outputOf.length > 0) reasons.push(`the ${holds} are an output ('${value.name}')`);
    else if (use !== undefined) reasons.push(`the ${holds} are used by ${use.node.label} too`);
  }
  if (site.past) reasons.push('its keys and values join a cache of earlier steps');
  if (site.dtype === null || site.dtype === 'float64')
    reasons.push(`it computes in ${site.dtype ?? 'an unknown type'}`);
  if (facts.softcap) reasons.push('its scores are capped or otherwise no linear function of the products');
  else if (facts.unclear !== null) reasons.push(facts.unclear);
  else if (site.operatorScale === null) reasons.push('its scale is not one number');
  if (site.mask === 'additive-bias') reasons.push('its scores carry an additive bias');
  if (site.mask === 'relative-bias') reasons.push('its scores carry a bias by relative position');
  if (site.mask === 'sliding-window') reasons.push('its keys are limited to a sliding window');
  if (facts.padding && site.keyMask === null)
    reasons.push('no value [batch, keys] of the graph says which keys are hidden');
  return reasons.length === 0 ? null : reasons.join('; ');
}

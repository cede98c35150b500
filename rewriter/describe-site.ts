import type { Node } from './graph/node.js';
import { scopeOf } from './graph/scope.js';
import { deadNodes } from './graph/slices.js';
import type { Value } from './graph/value.js';
import { hidesLaterKeys } from './masks/causal.js';
import type { MaskFacts } from './masks/facts.js';
import { maskKind } from './masks/index.js';
import type { Extent } from './masks/logits.js';
import { isGivenWhole, joinsCache, shareSource } from './match/data-flow.js';
import { locateOperands } from './patterns/locate-operands.js';
import type { Attention, FormCache, FormContext, FormPositions } from './patterns/source-form.js';
import { PLAIN } from './probe/laboratory.js';
import {
  type AttentionSite,
  type OperatorCache,
  type RotaryPositions,
  valuesBehind,
  valuesOf,
} from './site.js';
import { dtypeOf, pathOf, refusalsOfPlace } from './site-facts.js';

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
  const { laboratory } = context;
  const typeOf = (value: Value) => laboratory.trials[0]!.probe(PLAIN).sample(value).dataType;
  const dataType = typeOf(attention.output);
  const operands = locateOperands(attention, dataType, laboratory);
  if (typeof operands === 'string') return operands;
  const { queryHeads, kvHeads, headDim, valueDim } = operands;
  const uneven = [headDim, valueDim, queryHeads !== null && kvHeads !== null ? queryHeads / kvHeads : null];
  if (uneven.some(size => size !== null && !Number.isInteger(size))) {
    return `its channels do not divide into ${queryHeads} heads, and ${kvHeads} of key and value`;
  }
  const scope = attention.named.graph;
  const facts = context.masks.inspect({
    logits: attention.logits,
    graph: scope,
    extent: trial => operands.extent(trial),
  });
  const scale = facts.factor === null ? null : facts.factor * attention.productFactor;
  const past = attention.cache?.past != null || readsCache(attention);
  const extents = laboratory.trials.map(trial => operands.extent(trial));
  const site: Description = {
    computation: 'softmax',
    id: attention.output.name,
    scope: scopeOf(attention.named),
    graphPath: pathOf(scope),
    pattern: form,
    query: operands.query,
    key: operands.key,
    value: operands.value,
    output: operands.output,
    queryHeads,
    kvHeads,
    headDim,
    valueDim,
    scale: scale === null ? null : unrounded(scale * operands.carried * operands.missing, headDim),
    operatorScale: scale === null ? null : unrounded(scale * operands.missing, headDim),
    mask: maskKind(facts),
    window: windowOf(facts),
    causal: hidesLaterKeys(facts),
    keyMask: facts.keyMask,
    alignment: hidesLaterKeys(facts) ? facts.alignment : 'equal',
    emptyRow: emptyRow(facts, attention),
    past,
    kind: kindOf(attention, past, extents),
    dtype: dtypeOf(dataType),
    sink: attention.sink && {
      value: attention.sink.value?.name ?? null,
      dataType: typeOf(attention.sink.value ?? attention.output),
    },
    rotary: attention.rotary && positionsOf(attention.rotary),
    cache: attention.cache && cacheOf(attention.cache),
  };
  const read = [...[operands.query, operands.key, operands.value].flatMap(valuesOf), ...valuesBehind(site)];
  const kept = facts.keyMask === null ? read : [...read, facts.keyMask.value];
  const { key = null, value = null } = attention.cache?.present ?? {};
  const nodes = deadNodes(
    [scope.resolve(operands.output.value), key, value].filter(computed => computed !== null),
    new Set(kept.map(name => scope.resolve(name)!)),
  );
  const reason = refusal(site, nodes, attention, facts, extents);
  return { ...site, nodes, replaceable: reason === null, reason };
}

/** A site but for what follows from the rest. */
type Description = Omit<AttentionSite, 'nodes' | 'replaceable' | 'reason'>;

/**
 * Exporters store 1/sqrt(d), or its root on both sides, in single precision, and biases cost digits; a scale
 * that is 1/sqrt(d) or 1 but for such rounding is that.
 */
function unrounded(scale: number, headDim: number | null): number {
  const exact = headDim === null ? [1] : [1 / Math.sqrt(headDim), 1];
  return exact.find(value => Math.abs(scale / value - 1) < 2 ** -22) ?? scale;
}

function positionsOf({ cosines, sines, positions, ...rest }: FormPositions): RotaryPositions {
  return { ...rest, cosines: cosines.name, sines: sines.name, positions: positions?.name ?? null };
}

function cacheOf({ past, present, lengths, stacked }: FormCache): OperatorCache {
  return {
    past: past && { key: past.key.name, value: past.value.name },
    present: { key: present.key?.name ?? null, value: present.value?.name ?? null },
    stacked,
    lengths: lengths && { last: lengths.last.name, total: lengths.total.name },
  };
}

/**
 * Null too where rows do not see their own keys, or where there are more keys than rows and none is hidden for
 * coming later, which alone would tell the position of a row among the keys.
 */
function windowOf(facts: MaskFacts): AttentionSite['window'] {
  const { lower, upper } = facts.band;
  if (maskKind(facts) !== 'sliding-window' || (lower ?? 0) < 0 || (upper ?? 0) < 0) return null;
  return hidesLaterKeys(facts) || facts.alignment === 'equal' ? { left: lower, right: upper } : null;
}

function emptyRow(facts: MaskFacts, attention: Attention): AttentionSite['emptyRow'] {
  const { emptyRow: logits } = facts;
  return logits === 'equal' || logits === 'infinite' ? attention.emptyRow[logits] : logits;
}

function readsCache({ operands }: Attention): boolean {
  return operands.kind === 'read' && (joinsCache(operands.key.value) || joinsCache(operands.value.value));
}

function kindOf(
  { operands: read }: Attention,
  past: boolean,
  extents: readonly Extent[],
): AttentionSite['kind'] {
  if (past) return 'cached';
  if (extents.some(({ rows, columns }) => rows !== columns)) return 'cross';
  const { query, key } = read;
  if (query.value === key.value) return 'self';
  // Where the query itself comes from outside, nothing is known of its source.
  if (isGivenWhole(query.value)) return 'self';
  return isGivenWhole(key.value) || !shareSource(query.value, key.value) ? 'cross' : 'self';
}

/** Why no operator may replace the site; null when one may. */
function refusal(
  site: Description,
  nodes: readonly Node[],
  attention: Attention,
  facts: MaskFacts,
  extents: readonly Extent[],
): string | null {
  const rearranged = site.output.value !== attention.output.name;
  const products = rearranged
    ? [{ value: attention.output, holds: 'weighted sums before they are rearranged' }]
    : [];
  const reasons = [
    ...attention.refusals,
    ...refusalsOfPlace(attention, nodes, [...attention.interior, ...products], site.dtype),
  ];
  if (site.past && extents.every(({ rows }) => rows === 1))
    reasons.push('it takes one query a step, where there is nothing to gain');
  else if (site.past && !site.causal)
    reasons.push('its keys join a cache of earlier steps, and it is not causal');
  if (facts.softcap) reasons.push('its scores are capped or otherwise no linear function of the products');
  else if (facts.unclear !== null) reasons.push(facts.unclear);
  else if (site.operatorScale === null) reasons.push('its scale is not one number');
  if (site.mask === 'additive-bias') reasons.push('its scores carry an additive bias');
  if (site.mask === 'relative-bias') reasons.push('its scores carry a bias by relative position');
  if (site.mask === 'sliding-window' && site.window === null)
    reasons.push('its window does not start or end at the position of a row, or that position is not known');
  if (facts.padding && site.keyMask === null)
    reasons.push(
      'no value [batch, keys] of the graph says which keys are hidden: export it with such a mask as input',
    );
  return reasons.length === 0 ? null : reasons.join('; ');
}

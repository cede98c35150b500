import type { HeadRotation } from '../custom-ops/head-rotation.js';
import { type Attributes, DOMAIN, LOG_SUM_EXP, type OperatorDefinition } from '../custom-ops/operator.js';
import { AddedNodes } from './added-nodes.js';
import { uncalibrated } from './calibration.js';
import { isFloating } from './graph/data-type.js';
import type { NameAuthority } from './graph/names.js';
import { type LinearOperand, linearOperand } from './linear-operand.js';
import { nearKeys } from './near-keys.js';
import type { AttributeSpec, DataType, NodeSpec } from './onnx/spec.js';
import { joinedCache, rotated, type SharedValues } from './operator-cache.js';
import { rotatedHeads, rotatedLayer } from './rotated-operand.js';
import {
  type AttentionSink,
  type AttentionSite,
  type FusionInput,
  type FusionSite,
  isAttention,
  type JoinedOperand,
  type KeyMask,
  type Move,
  type Operand,
  type Site,
  valuesOf,
  type ZerosOperand,
} from './site.js';
import { KEY_MASK, visibleKeys } from './visible-keys.js';

/** A site and the operator that takes its place, with all its attributes. */
export interface Replacement {
  readonly site: Site;
  readonly operator: OperatorDefinition;
  readonly attributes: Attributes;
  /** What query and key are rotated by, for an operator that says how (`rotationFor`). */
  readonly rotation?: PlacedRotation;
}

export interface PlacedRotation extends HeadRotation {
  /**
   * 'weights': rotates the weights of the linear layer that computes an operand, where there is one, which
   * costs nothing when the model runs; 'values': rotates what it computes.
   */
  readonly place: 'weights' | 'values';
}

/** Keys of NodeProto.metadata_props that say what a node replaced. */
export const SITE_METADATA = 'onnxrewrite.site';
export const PATTERN_METADATA = 'onnxrewrite.pattern';

type Input = Operand | RotatedOperand | FusionInput | KeyMask;

interface RotatedOperand extends Operand {
  readonly rotation: HeadRotation;
  /** The layer whose weights take the rotation; null where the values do. */
  readonly linear: LinearOperand | null;
}

/** Names of the values of the graph that an input is made of. */
export function valuesRead(input: Input): readonly string[] {
  if ('visible' in input || !('linear' in input) || input.linear === null) return valuesOf(input);
  const { input: source, weights, bias, split } = input.linear;
  return [source, weights, bias, split?.shape].filter(name => name != null);
}

/**
 * The operator inputs that a replacement connects, by name, with the operands that they take.
 * @throws InputError when the operator has to be calibrated and is not
 */
export function connectedInputs(replacement: Replacement): ReadonlyMap<string, Input> {
  const { site, operator } = replacement;
  const available: Readonly<Record<string, Input | null>> = {
    ...operandsOf(replacement),
    [KEY_MASK]: site.keyMask,
  };
  const connected = new Map<string, Input>();
  for (const { name, optional } of operator.inputs) {
    const operand = available[name] ?? null;
    if (operand !== null) connected.set(name, operand);
    else if (!optional) throw new RangeError(`${operator.id} needs ${name}, which site ${site.id} has not`);
  }
  for (const [name, operand] of Object.entries(available)) {
    if (operand === null || connected.has(name)) continue;
    throw new RangeError(`${operator.id} has no input for the ${name} of site ${site.id}`);
  }
  return connected;
}

function operandsOf({
  site,
  operator,
  rotation,
}: Replacement): Readonly<Record<string, Operand | RotatedOperand | FusionInput>> {
  if (!isAttention(site)) return site.operands;
  const { query, key, value } = site;
  if (rotation === undefined) {
    if (operator.rotationFor === undefined) return { query, key, value };
    throw uncalibrated(site.id, operator.id);
  }
  const rotated = (operand: Operand, heads: number | null): RotatedOperand => {
    const graph = site.nodes[0]!.graph;
    const width = (heads ?? 0) * rotation.headDim;
    const linear =
      rotation.place === 'weights' && site.cache === null
        ? linearOperand(operand, width, graph, new Set(site.nodes))
        : null;
    return { ...operand, rotation, linear };
  };
  return { query: rotated(query, site.queryHeads), key: rotated(key, site.kvHeads), value };
}

/**
 * The nodes that compute the output of a site by its operator: adapters that bring the operands into the
 * operator's layout, the operator, and adapters from its output to the site's layout.
 * @param overload of the function body
 * @param shared values that nodes before these ones compute; new ones are added
 */
export function replacementNodes(
  replacement: Replacement,
  overload: string,
  names: NameAuthority,
  shared: SharedValues,
): NodeSpec[] {
  const { site, operator, attributes } = replacement;
  const name = names.fresh(`${site.id}/${operator.opType}`);
  const nodes = new AddedNodes(names, name);
  const connected = connectedInputs(replacement);
  const { operands: taken, keyMask } = isAttention(site) ? operandsInside(nodes, site, shared) : AS_THEY_ARE;
  const inputs: string[] = [];
  const connect = (input: OperatorDefinition['inputs'][number]): string => {
    const operand = connected.get(input.name);
    if (operand === undefined) return '';
    if ('visible' in operand) {
      if (keyMask !== null) return keyMask;
      const key = inputs[operator.inputs.findIndex(other => other.name === 'key')]!;
      return visibleKeys(nodes, operand, { value: key, axis: operator.layout === 'BHND' ? 2 : 1 }, shared);
    }
    if ('parts' in operand || 'sizesOf' in operand) return madeOperand(nodes, operand, input.name);
    const inLayout =
      'moves' in operand
        ? nodes.moved(operand.value, input.name, operand.moves)
        : attentionOperand(nodes, { ...operand, ...taken[input.name] }, input.name, site, operator.layout);
    if (operand.dataType === site.output.dataType || !isFloating(operand.dataType)) return inLayout;
    const to = { to: { type: 'int', value: site.output.dataType } } as const;
    return nodes.add('Cast', `${input.name}_cast`, [inLayout], to);
  };
  for (const input of operator.inputs) inputs.push(connect(input));
  while (inputs.at(-1) === '') inputs.pop();
  const moves =
    site.computation === 'softmax' ? fromOperatorLayout(site, operator.layout) : site.output.moves;
  const sink = isAttention(site) ? site.sink : null;
  const weighted = moves.length === 0 ? site.output.value : nodes.freshValue('output');
  const output = sink === null ? weighted : nodes.freshValue('output_without_sink');
  const further = furtherOutputsOf(site);
  const outputs = operator.outputs.map(({ name: role }, n) => {
    if (n === 0) return output;
    if (sink !== null && role === LOG_SUM_EXP) return nodes.freshValue(role);
    const parts = further[role];
    return parts ? (parts.find(part => part.moves.length === 0)?.value ?? nodes.freshValue(role)) : '';
  });
  while (outputs.at(-1) === '') outputs.pop();
  nodes.list.push({
    opType: operator.opType,
    domain: DOMAIN,
    overload,
    name,
    inputs,
    outputs,
    attributes: attributeSpecs(operator, attributes),
    metadata: { [SITE_METADATA]: site.id, [PATTERN_METADATA]: site.pattern },
  });
  if (sink !== null) {
    const lse = outputs[operator.outputs.findIndex(({ name }) => name === LOG_SUM_EXP)]!;
    shareOfKeys(nodes, { output, lse }, sink, site.output.dataType, weighted);
  }
  nodes.moved(weighted, 'output', moves, site.output.value);
  for (const [n, { name: role }] of operator.outputs.entries()) {
    for (const part of further[role] ?? []) nodes.moved(outputs[n]!, role, part.moves, part.value);
  }
  return nodes.list;
}

/** What the operator gives besides its first output for values of the graph, by name. */
function furtherOutputsOf(site: Site): FusionSite['furtherOutputs'] {
  return isAttention(site) ? {} : site.furtherOutputs;
}

/** Names of the outputs that a site takes besides the first. */
export function connectedOutputs(site: Site): readonly string[] {
  return isAttention(site) && site.sink !== null ? [LOG_SUM_EXP] : Object.keys(furtherOutputsOf(site));
}

/**
 * The output [B,H,N,E] of attention without a sink times what a sink leaves to the keys.
 * @param result the name of the product
 */
function shareOfKeys(
  nodes: AddedNodes,
  { output, lse }: { readonly output: string; readonly lse: string },
  sink: AttentionSink,
  dataType: DataType,
  result: string,
): void {
  let excess = lse;
  if (sink.value !== null) {
    const typed =
      sink.dataType === dataType
        ? sink.value
        : nodes.add('Cast', 'sink_cast', [sink.value], { to: { type: 'int', value: dataType } });
    excess = nodes.add('Sub', 'above_sink', [lse, nodes.reshape(typed, 'sink', [1, -1, 1])]);
  }
  const share = nodes.add('Sigmoid', 'share_of_keys', [excess]);
  nodes.add('Mul', 'weighted', [output, nodes.reshape(share, 'share_column', [0, 0, 0, 1])], {}, result);
}

/** An operand that no single value of the graph holds. */
function madeOperand(nodes: AddedNodes, operand: JoinedOperand | ZerosOperand, role: string): string {
  if ('sizesOf' in operand) {
    return nodes.moved(nodes.zeros(operand.sizesOf, role, operand.axes), role, operand.moves);
  }
  const parts = operand.parts.map(({ value, moves }, n) => nodes.moved(value, `${role}_${n}`, moves));
  const axis = { axis: { type: 'int', value: 1 } } as const;
  const joined = parts.length === 1 ? parts[0]! : nodes.add('Concat', `${role}_joined`, parts, axis);
  return nodes.moved(joined, role, operand.moves);
}

/** An operand that an operator made inside itself, made by nodes of the graph. */
function project(nodes: AddedNodes, operand: Operand, role: string): Operand {
  const { value, projection } = operand;
  if (projection === null) return operand;
  const { weights, bias, columns } = projection;
  let result = weights === null && bias === null ? nodes.slice(value, role, 2, columns) : value;
  if (weights !== null) {
    result = nodes.add('MatMul', `${role}_product`, [
      result,
      nodes.slice(weights, `${role}_weights`, 1, columns),
    ]);
  }
  if (bias !== null) {
    result = nodes.add('Add', `${role}_projection`, [result, nodes.slice(bias, `${role}_bias`, 0, columns)]);
  }
  return { ...operand, value: result, projection: null };
}

/** Operands as an operator had them that applies positions and keeps a cache itself. */
interface OperandsInside {
  /** By role, where they are not the site's own. */
  readonly operands: Readonly<Record<string, Pick<Operand, 'value' | 'layout' | 'projection'>>>;
  /** Which keys are visible, bool [B,S]; null where the site's own mask says. */
  readonly keyMask: string | null;
}

const AS_THEY_ARE: OperandsInside = { operands: {}, keyMask: null };

function operandsInside(nodes: AddedNodes, site: AttentionSite, shared: SharedValues): OperandsInside {
  const { rotary, cache, queryHeads, kvHeads, window } = site;
  if (cache === null) return AS_THEY_ARE;
  const inHeads = (role: 'query' | 'key' | 'value') => {
    const heads = role === 'query' ? queryHeads : kvHeads;
    const operand = project(nodes, site[role], role);
    const value =
      rotary === null || role === 'value'
        ? operand.value
        : rotated(nodes, operand.value, role, heads!, { ...site, rotary, cache }, shared);
    return nodes.moved(value, `${role}_heads`, toHeads(operand, role, heads));
  };
  const headed = (value: string) => ({ value, layout: 'BHND', projection: null }) as const;
  const query = inHeads('query');
  const fresh = { key: inHeads('key'), value: inHeads('value') };
  const { graph } = site.nodes[0]!;
  const cached = { ...site, cache };
  const joined = joinedCache(nodes, cached, fresh, graph, shared);
  const near =
    window?.left != null && cache.past !== null && cache.lengths !== null
      ? nearKeys(nodes, cached, joined, window.left, graph, shared)
      : { ...joined, keyMask: null };
  const operands = { query: headed(query), key: headed(near.key), value: headed(near.value) };
  return { operands, keyMask: near.keyMask };
}

/** Query, key or value of softmax attention: projected, laid out for the operator, and rotated. */
function attentionOperand(
  nodes: AddedNodes,
  operand: Operand | RotatedOperand,
  role: string,
  { queryHeads, kvHeads }: Pick<Site, 'queryHeads' | 'kvHeads'>,
  layout: OperatorDefinition['layout'],
): string {
  const heads = role === 'query' ? queryHeads : kvHeads;
  const { rotation, linear } = 'rotation' in operand ? operand : { rotation: null, linear: null };
  const place = rotation && { nodes, rotation, dataType: operand.dataType, heads: heads!, role };
  const source =
    place && linear
      ? { ...operand, value: rotatedLayer(linear, place), layout: linear.layout }
      : project(nodes, operand, role);
  const joined: readonly Move[] =
    layout === 'BHND' ? [] : [{ transpose: [0, 2, 1, 3] }, { reshape: [0, 0, -1] }];
  const moves = source.layout === layout ? [] : [...toHeads(source, role, heads), ...joined];
  if (!place || linear) return nodes.moved(source.value, role, moves);
  return rotatedHeads(nodes.moved(source.value, `${role}_heads`, moves), place);
}

/** The moves from an operand's layout to [B,H,N,D]. */
function toHeads({ value, layout }: Operand, role: string, heads: number | null): readonly Move[] {
  switch (layout) {
    case 'BHND':
      return [];
    case 'BHDN':
      return [{ transpose: [0, 1, 3, 2] }];
    case 'BNHD':
      return [{ transpose: [0, 2, 1, 3] }];
    case 'N(BH)D':
    case '(BH)ND':
      throw new RangeError(`${role} '${value}' has its heads next to the batch, as only outputs may`);
  }
  if (heads === null) {
    throw new RangeError(`the heads of ${role} '${value}' are packed, their number unknown`);
  }
  const split = { reshape: [0, 0, heads, -1] };
  switch (layout) {
    case 'BN(HD)':
      return [split, { transpose: [0, 2, 1, 3] }];
    case 'B(HD)N':
      return [{ transpose: [0, 2, 1] }, split, { transpose: [0, 2, 1, 3] }];
    case 'NB(HD)':
      return [split, { transpose: [1, 2, 0, 3] }];
  }
}

/** The moves from the operator's output to the layout of softmax attention's. */
function fromOperatorLayout(
  { output: { value, layout, dataType }, valueDim, queryHeads }: AttentionSite,
  from: OperatorDefinition['layout'],
): readonly Move[] {
  if (layout === from) return [];
  const ofOutput: Operand = { value, layout: from, dataType, projection: null };
  return [...toHeads(ofOutput, 'output', queryHeads), ...fromHeads(value, layout, valueDim)];
}

/**
 * The moves from [B,H,N,D] to a layout.
 * @param headDim head size, which a layout with heads next to the batch needs
 */
function fromHeads(value: string, layout: Operand['layout'], headDim: number | null): readonly Move[] {
  switch (layout) {
    case 'BHND':
      return [];
    case 'BHDN':
      return [{ transpose: [0, 1, 3, 2] }];
    case 'BNHD':
      return [{ transpose: [0, 2, 1, 3] }];
    case 'BN(HD)':
      return [{ transpose: [0, 2, 1, 3] }, { reshape: [0, 0, -1] }];
    case 'B(HD)N':
      return [{ transpose: [0, 2, 1, 3] }, { reshape: [0, 0, -1] }, { transpose: [0, 2, 1] }];
    case 'NB(HD)':
      return [{ transpose: [2, 0, 1, 3] }, { reshape: [0, 0, -1] }];
    case 'N(BH)D':
    case '(BH)ND': {
      if (headDim === null) throw new RangeError(`the head size of output '${value}' is unknown`);
      const rowsFirst = [{ transpose: [2, 0, 1, 3] }, { reshape: [0, -1, headDim] }];
      return layout === 'N(BH)D' ? rowsFirst : [...rowsFirst, { transpose: [1, 0, 2] }];
    }
  }
}

/** Attributes as they are written on a node, typed as the operator defines them. */
export function attributeSpecs(
  operator: OperatorDefinition,
  attributes: Attributes,
): Record<string, AttributeSpec> {
  const specs: Record<string, AttributeSpec> = {};
  for (const { name, type } of operator.attributes) {
    const value = attributes[name];
    if (value !== undefined) specs[name] = { type, value } as AttributeSpec;
  }
  return specs;
}

import { type Attributes, DOMAIN, type OperatorDefinition } from '../custom-ops/operator.js';
import { isFloating } from './graph/data-type.js';
import type { NameAuthority } from './graph/names.js';
import { type AttributeSpec, DataType, type NodeSpec } from './onnx/spec.js';
import type { AttentionSite, FusionOperand, KeyMask, Move, Operand, Site } from './site.js';

/** A site and the operator that takes its place, with all its attributes. */
export interface Replacement {
  readonly site: Site;
  readonly operator: OperatorDefinition;
  readonly attributes: Attributes;
}

/** Keys of NodeProto.metadata_props that say what a node replaced. */
export const SITE_METADATA = 'onnxrewrite.site';
export const PATTERN_METADATA = 'onnxrewrite.pattern';

/** Name of the operator input that takes the keys visible per batch row, bool [B,S]. */
const KEY_MASK = 'key_mask';

type Input = Operand | FusionOperand | KeyMask;

/** The operator inputs that a replacement connects, by name, with the operands that they take. */
export function connectedInputs({ site, operator }: Replacement): ReadonlyMap<string, Input> {
  const available: Readonly<Record<string, Input | null>> = { ...operandsOf(site), [KEY_MASK]: site.keyMask };
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

function operandsOf(site: Site): Readonly<Record<string, Operand | FusionOperand>> {
  if (site.computation !== 'softmax') return site.operands;
  const { query, key, value } = site;
  return { query, key, value };
}

/**
 * The nodes that compute the output of a site by its operator: adapters that bring the operands into the
 * operator's layout, the operator, and adapters from its output to the site's layout.
 * @param overload of the function body
 * @param masks boolean key masks that nodes before these ones compute; new ones are added
 */
export function replacementNodes(
  replacement: Replacement,
  overload: string,
  names: NameAuthority,
  masks: Map<string, string>,
): NodeSpec[] {
  const { site, operator, attributes } = replacement;
  const name = names.fresh(`${site.id}/${operator.opType}`);
  const nodes = new Nodes(names, name);
  const connected = connectedInputs(replacement);
  const inputs = operator.inputs.map(input => {
    const operand = connected.get(input.name);
    if (operand === undefined) return '';
    if ('visible' in operand) return visibleKeys(nodes, operand, masks);
    const inLayout =
      'moves' in operand
        ? nodes.moved(operand.value, input.name, operand.moves)
        : attentionOperand(nodes, operand, input.name, site, operator.layout);
    if (operand.dataType === site.output.dataType || !isFloating(operand.dataType)) return inLayout;
    const to = { to: { type: 'int', value: site.output.dataType } } as const;
    return nodes.add('Cast', `${input.name}_cast`, [inLayout], to);
  });
  while (inputs.at(-1) === '') inputs.pop();
  const moves =
    site.computation === 'softmax' ? fromOperatorLayout(site, operator.layout) : site.output.moves;
  const output = moves.length === 0 ? site.output.value : nodes.freshValue('output');
  nodes.list.push({
    opType: operator.opType,
    domain: DOMAIN,
    overload,
    name,
    inputs,
    outputs: [output],
    attributes: attributeSpecs(operator, attributes),
    metadata: { [SITE_METADATA]: site.id, [PATTERN_METADATA]: site.pattern },
  });
  nodes.moved(output, 'output', moves, site.output.value);
  return nodes.list;
}

/** Collects nodes, naming them and their outputs. */
class Nodes {
  readonly list: NodeSpec[] = [];

  constructor(
    private readonly names: NameAuthority,
    private readonly prefix: string,
  ) {}

  freshValue(role: string): string {
    return this.names.fresh(`${this.prefix}/${role}`);
  }

  /** Adds a node with one output; returns its name. */
  add(
    opType: string,
    role: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, AttributeSpec>> = {},
    output = this.freshValue(role),
  ): string {
    const name = this.names.fresh(`${this.prefix}/${role}/${opType}`);
    this.list.push({ opType, name, inputs, outputs: [output], attributes });
    return output;
  }

  /** Adds the moves of a value; returns the name of the last one's result, `output` where given. */
  moved(value: string, role: string, moves: readonly Move[], output?: string): string {
    return moves.reduce((moved, move, i) => {
      const last = i === moves.length - 1;
      const step = last ? role : `${role}_${i}`;
      return 'transpose' in move
        ? this.transpose(moved, step, move.transpose, last ? output : undefined)
        : this.reshape(moved, step, move.reshape, last ? output : undefined);
    }, value);
  }

  integers(role: string, values: readonly number[]): string {
    const data = new Uint8Array(BigInt64Array.from(values, BigInt).buffer);
    const tensor = { dataType: DataType.INT64, dims: [values.length], data };
    return this.add('Constant', role, [], { value: { type: 'tensor', value: tensor } });
  }

  reshape(value: string, role: string, shape: readonly number[], output?: string): string {
    return this.add('Reshape', role, [value, this.integers(`${role}_shape`, shape)], {}, output);
  }

  slice(value: string, role: string, axis: number, [start, end]: readonly [number, number]): string {
    const bounds = [start, end, axis].map((bound, i) =>
      this.integers(`${role}_${['start', 'end', 'axis'][i]}`, [bound]),
    );
    return this.add('Slice', role, [value, ...bounds]);
  }

  transpose(value: string, role: string, perm: readonly number[], output?: string): string {
    return this.add('Transpose', role, [value], { perm: { type: 'ints', value: perm } }, output);
  }
}

/** An operand that an operator made inside itself, made by nodes of the graph. */
function project(nodes: Nodes, operand: Operand, role: string): Operand {
  const { value, projection } = operand;
  if (projection === null) return operand;
  const { weights, bias, columns } = projection;
  let result = value;
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

/** Query, key or value of softmax attention, projected and laid out for the operator. */
function attentionOperand(
  nodes: Nodes,
  operand: Operand,
  role: string,
  { queryHeads, kvHeads }: Pick<Site, 'queryHeads' | 'kvHeads'>,
  layout: OperatorDefinition['layout'],
): string {
  const heads = role === 'query' ? queryHeads : kvHeads;
  const { value } = project(nodes, operand, role);
  if (operand.layout === layout) return value;
  const apart = toHeads({ ...operand, value }, role, heads);
  const joined: readonly Move[] =
    layout === 'BHND' ? [] : [{ transpose: [0, 2, 1, 3] }, { reshape: [0, 0, -1] }];
  return nodes.moved(value, role, [...apart, ...joined]);
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
      throw new RangeError(`${role} '${value}' has its heads next to the batch, as only outputs may`);
  }
  if (heads === null) {
    throw new RangeError(`the heads of ${role} '${value}' are packed, their number unknown`);
  }
  const perm = layout === 'BN(HD)' ? [0, 2, 1, 3] : [1, 2, 0, 3];
  return [{ reshape: [0, 0, heads, -1] }, { transpose: perm }];
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
    case 'NB(HD)':
      return [{ transpose: [2, 0, 1, 3] }, { reshape: [0, 0, -1] }];
    case 'N(BH)D':
      if (headDim === null) throw new RangeError(`the head size of output '${value}' is unknown`);
      return [{ transpose: [2, 0, 1, 3] }, { reshape: [0, -1, headDim] }];
  }
}

/** The key mask as bool, true where a key is visible; computed once for all sites that share it. */
function visibleKeys(nodes: Nodes, mask: KeyMask, masks: Map<string, string>): string {
  const key = `${mask.visible} ${mask.value}`;
  const known = masks.get(key);
  if (known !== undefined) return known;
  const to = { to: { type: 'int', value: DataType.BOOL } } as const;
  const bool =
    mask.dataType === DataType.BOOL ? mask.value : nodes.add('Cast', 'key_mask_bool', [mask.value], to);
  const visible = mask.visible === 'nonzero' ? bool : nodes.add('Not', KEY_MASK, [bool]);
  masks.set(key, visible);
  return visible;
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

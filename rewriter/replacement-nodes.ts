import { type Attributes, DOMAIN, type OperatorDefinition } from '../custom-ops/operator.js';
import type { NameAuthority } from './graph/names.js';
import { type AttributeSpec, DataType, type NodeSpec } from './onnx/spec.js';
import type { AttentionSite, KeyMask, Operand } from './site.js';

/** An attention site and the operator that takes its place, with all its attributes. */
export interface Replacement {
  readonly site: AttentionSite;
  readonly operator: OperatorDefinition;
  readonly attributes: Attributes;
}

/** Keys of NodeProto.metadata_props that say what a node replaced. */
export const SITE_METADATA = 'onnxrewrite.site';
export const PATTERN_METADATA = 'onnxrewrite.pattern';

/** Name of the operator input that takes the keys visible per batch row, bool [B,S]. */
const KEY_MASK = 'key_mask';

/** The operator inputs that a replacement connects, by name, with the operands that they take. */
export function connectedInputs({ site, operator }: Replacement): ReadonlyMap<string, Operand | KeyMask> {
  const available: Readonly<Record<string, Operand | KeyMask | null>> = {
    query: site.query,
    key: site.key,
    value: site.value,
    [KEY_MASK]: site.keyMask,
  };
  const connected = new Map<string, Operand | KeyMask>();
  for (const { name, optional } of operator.inputs) {
    const operand = available[name] ?? null;
    if (operand !== null) connected.set(name, operand);
    else if (!optional) throw new RangeError(`${operator.id} needs ${name}, which site ${site.id} has not`);
  }
  if (site.keyMask !== null && !connected.has(KEY_MASK)) {
    throw new RangeError(`${operator.id} has no input for the key mask of site ${site.id}`);
  }
  return connected;
}

/**
 * The nodes that compute the output of a site by its operator: adapters that bring the operands into the
 * operator's layout [B,H,N,D], the operator, and adapters from its output [B,H,N,E] to the site's layout.
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
    const heads = input.name === 'query' ? site.queryHeads : site.kvHeads;
    const projected = project(nodes, operand, input.name);
    const inLayout = toOperatorLayout(nodes, projected, input.name, heads);
    if (operand.dataType === site.output.dataType) return inLayout;
    const to = { to: { type: 'int', value: site.output.dataType } } as const;
    return nodes.add('Cast', `${input.name}_cast`, [inLayout], to);
  });
  while (inputs.at(-1) === '') inputs.pop();
  const output = site.output.layout === 'BHND' ? site.output.value : nodes.freshValue('output');
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
  fromOperatorLayout(nodes, output, site.output, site.valueDim);
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

function toOperatorLayout(nodes: Nodes, operand: Operand, role: string, heads: number | null): string {
  const { value, layout } = operand;
  switch (layout) {
    case 'BHND':
      return value;
    case 'BHDN':
      return nodes.transpose(value, role, [0, 1, 3, 2]);
    case 'BNHD':
      return nodes.transpose(value, role, [0, 2, 1, 3]);
    case 'N(BH)D':
      throw new RangeError(`${role} '${value}' has its heads next to the batch, as only outputs may`);
  }
  if (heads === null) {
    throw new RangeError(`the heads of ${role} '${value}' are packed, their number unknown`);
  }
  const apart = nodes.reshape(value, `${role}_heads`, [0, 0, heads, -1]);
  return nodes.transpose(apart, role, layout === 'BN(HD)' ? [0, 2, 1, 3] : [1, 2, 0, 3]);
}

/** `headDim` is the head size of the output, which a layout with heads next to the batch needs. */
function fromOperatorLayout(
  nodes: Nodes,
  output: string,
  { value, layout }: Operand,
  headDim: number | null,
): void {
  switch (layout) {
    case 'BHND':
      return;
    case 'BHDN':
      nodes.transpose(output, 'output', [0, 1, 3, 2], value);
      return;
    case 'BNHD':
      nodes.transpose(output, 'output', [0, 2, 1, 3], value);
      return;
    case 'BN(HD)':
      nodes.reshape(nodes.transpose(output, 'output_heads', [0, 2, 1, 3]), 'output', [0, 0, -1], value);
      return;
    case 'NB(HD)':
      nodes.reshape(nodes.transpose(output, 'output_heads', [2, 0, 1, 3]), 'output', [0, 0, -1], value);
      return;
    case 'N(BH)D':
      if (headDim === null) throw new RangeError(`the head size of output '${value}' is unknown`);
      nodes.reshape(nodes.transpose(output, 'output_heads', [2, 0, 1, 3]), 'output', [0, -1, headDim], value);
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

function attributeSpecs(operator: OperatorDefinition, attributes: Attributes): Record<string, AttributeSpec> {
  const specs: Record<string, AttributeSpec> = {};
  for (const { name, type } of operator.attributes) {
    const value = attributes[name];
    if (value !== undefined) specs[name] = { type, value } as AttributeSpec;
  }
  return specs;
}

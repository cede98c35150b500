import type { Graph } from './graph/graph.js';
import type { Node } from './graph/node.js';
import { DataType } from './onnx/spec.js';
import type { Attention } from './patterns/source-form.js';
import type { Site } from './site.js';

/** What softmax attention and fusions have in common when they are described. */

const DTYPES: Readonly<Partial<Record<DataType, NonNullable<Site['dtype']>>>> = {
  [DataType.FLOAT]: 'float32',
  [DataType.FLOAT16]: 'float16',
  [DataType.BFLOAT16]: 'bfloat16',
  [DataType.DOUBLE]: 'float64',
};

export function dtypeOf(dataType: DataType): Site['dtype'] {
  return DTYPES[dataType] ?? null;
}

/** Names of the nodes around a subgraph, outermost first. */
export function pathOf(graph: Graph): readonly string[] {
  if (graph.owner === null) return [];
  const { node } = graph.owner;
  return [...pathOf(node.graph), node.name !== '' ? node.name : (node.outputs[0]?.name ?? '')];
}

/** Why no operator may replace a site where it stands, computes or lends its inner values. */
export function refusalsOfPlace(
  { named, nodes: own }: Pick<Attention, 'named' | 'nodes'>,
  nodes: readonly Node[],
  interior: Attention['interior'],
  dtype: Site['dtype'],
): string[] {
  const reasons: string[] = [];
  if (named.graph.root.isFunction) {
    reasons.push('it is in the body of a model-local function: inline the functions of the model first');
  }
  for (const { value, holds } of interior) {
    const use = value.uses.find(({ node }) => !nodes.includes(node) && !own.has(node));
    if (value.outputOf.length > 0)
      reasons.push(`the ${holds} are an output ('${value.name}'): export the model without it`);
    else if (use !== undefined) reasons.push(`the ${holds} are used by ${use.node.label} too`);
  }
  if (dtype === null || dtype === 'float64')
    reasons.push(
      `it computes in ${dtype === null ? 'an unknown type' : `${dtype}: convert the model to float32`}`,
    );
  return reasons;
}

import type { Graph } from '../../rewriter/graph/graph.js';
import type { Node } from '../../rewriter/graph/node.js';
import { readBy } from '../../rewriter/graph/slices.js';
import type { Value } from '../../rewriter/graph/value.js';
import type { NodeInfo, TensorInfo } from '../../rewriter/onnx/model-info.js';
import type { ModelSlice } from '../validation/slice-model.js';

/** A part of a main graph that can run by itself. */
export interface GraphPart extends ModelSlice {
  /** Values that it reads and does not compute: what it has to be fed. */
  readonly inputs: readonly string[];
}

/**
 * Some nodes of a main graph, with the initializers that they read and the nodes that compute on initializers
 * only, as weights are dequantized.
 * @param outputs values that these nodes compute
 */
export function partOf(graph: Graph, nodes: Iterable<Node>, outputs: readonly string[]): GraphPart {
  const members = new Set(nodes);
  const initializers = new Set<TensorInfo>();
  const inputs = new Set<string>();
  const constants = new Map<Value, boolean>();
  // Members grow while they are visited.
  for (const node of members) {
    for (const value of readBy(node)) {
      if (value.graph !== graph) continue;
      const { producer, initializer } = value;
      if (initializer !== null) initializers.add(initializer);
      else if (producer !== null && members.has(producer)) continue;
      else if (producer !== null && isConstant(value, constants)) members.add(producer);
      else inputs.add(value.name);
    }
  }
  const infos = new Set<NodeInfo>([...members].map(({ info }) => info));
  return { nodes: infos, initializers, outputs, inputs: [...inputs] };
}

/** The nodes that `value` has an influence on, in topological order. */
export function downstreamOf(graph: Graph, value: string): Set<Node> {
  const reached = new Set<Value>();
  const start = graph.resolve(value);
  if (start !== null) reached.add(start);
  const nodes = new Set<Node>();
  for (const node of graph.nodes) {
    if (![...readBy(node)].some(read => reached.has(read))) continue;
    nodes.add(node);
    for (const output of node.outputs) if (output !== null) reached.add(output);
  }
  return nodes;
}

/** Whether a value follows from initializers alone. */
function isConstant(value: Value, known: Map<Value, boolean>): boolean {
  const decided = known.get(value);
  if (decided !== undefined) return decided;
  const { producer, initializer } = value;
  const constant =
    initializer !== null ||
    (producer !== null &&
      !/Random|Multinomial|Bernoulli/.test(producer.info.opType) &&
      [...readBy(producer)].every(read => read.graph !== value.graph || isConstant(read, known)));
  known.set(value, constant);
  return constant;
}

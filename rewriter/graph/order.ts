import { InputError } from '../errors.js';
import type { Graph } from './graph.js';
import type { Node } from './node.js';

/**
 * The nodes with every producer before its consumers, including consumers inside subgraphs; an order that
 * already is topological stays as it is.
 * @throws InputError naming a node of a cycle
 */
export function topologicalOrder(nodes: readonly Node[], graph: Graph): readonly Node[] {
  const producers = new Map<Node, Set<Node>>(nodes.map(node => [node, new Set()]));
  for (const node of nodes) collectProducers(node, graph, producers.get(node)!);
  const order: Node[] = [];
  const placed = new Set<Node>();
  const open = new Set<Node>();
  for (const root of nodes) {
    // Depth first with an explicit stack: graphs are deeper than the call stack.
    const stack: { node: Node; rest: Iterator<Node> }[] = [];
    const enter = (node: Node) => {
      if (placed.has(node)) return;
      if (open.has(node)) {
        throw new InputError(`${graph.label}: ${node.label} depends on its own output`, {
          node: node.name,
          remedy: 'The graph has a cycle, which ONNX does not allow. Export the model again.',
        });
      }
      open.add(node);
      stack.push({ node, rest: producers.get(node)!.values() });
    };
    enter(root);
    for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
      const next = top.rest.next();
      if (!next.done) enter(next.value);
      else {
        stack.pop();
        open.delete(top.node);
        placed.add(top.node);
        order.push(top.node);
      }
    }
  }
  return order;
}

/** Nodes of `graph` whose outputs `node` reads, itself or through its subgraphs. */
function collectProducers(node: Node, graph: Graph, found: Set<Node>): void {
  for (const input of node.inputs) {
    if (input?.graph === graph && input.producer !== null) found.add(input.producer);
  }
  for (const body of node.subgraphs.values()) {
    for (const inner of body.nodes) collectProducers(inner, graph, found);
    for (const output of body.outputs) {
      if (output.graph === graph && output.producer !== null) found.add(output.producer);
    }
  }
}

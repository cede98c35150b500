import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';

/**
 * Values that everything in `start` is computed through, nearest first: a single start value itself, then
 * wherever the ways back through `follow` meet in one value.
 * @param data the inputs of a node that carry data; constants and shapes do not
 * @param follow whether to go back through a node
 */
export function dominatorsOf(
  start: Iterable<Value>,
  data: (node: Node) => readonly Value[],
  follow: (node: Node) => boolean,
): Value[] {
  const frontier = new Set(start);
  const found: Value[] = [];
  for (;;) {
    if (frontier.size === 1) found.push(...frontier);
    let last: Value | null = null;
    for (const value of frontier) if (last === null || position(value) > position(last)) last = value;
    if (last === null || last.producer === null || !follow(last.producer)) return found;
    frontier.delete(last);
    for (const input of data(last.producer)) frontier.add(input);
  }
}

/** Where in the order of its graph a value is computed; before all nodes for inputs and stored values. */
function position({ producer }: Value): number {
  return producer === null ? -1 : (order(producer).get(producer) ?? -1);
}

const orders = new WeakMap<object, ReadonlyMap<Node, number>>();

function order({ graph }: Node): ReadonlyMap<Node, number> {
  let known = orders.get(graph);
  if (known === undefined) {
    known = new Map(graph.nodes.map((node, at) => [node, at]));
    orders.set(graph, known);
  }
  return known;
}

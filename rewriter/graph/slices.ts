import type { Node } from './node.js';
import type { Value } from './value.js';

/**
 * Nodes that become dead when `replaced` is computed otherwise: those that reach the model's outputs only
 * through it. Values in `kept` stay in use, by the replacement.
 */
export function deadNodes(replaced: readonly Value[], kept: ReadonlySet<Value>): readonly Node[] {
  const dead = new Set<Node>();
  const isDead = (value: Value) =>
    replaced.includes(value) ||
    (!kept.has(value) &&
      value.outputOf.every(({ owner }) => owner !== null && isInside(owner.node, dead)) &&
      value.uses.every(({ node }) => isInside(node, dead)));
  const queue = replaced.map(value => value.producer);
  for (let node = queue.pop(); node !== undefined; node = queue.pop()) {
    if (node === null || isInside(node, dead)) continue;
    if (!node.outputs.every(output => output === null || isDead(output))) continue;
    dead.add(node);
    for (const input of readBy(node)) queue.push(input.producer);
  }
  return [...dead];
}

/** Whether a node is one of these or in a subgraph of one. */
export function isInside(node: Node, nodes: ReadonlySet<Node>): boolean {
  return nodes.has(node) || (node.graph.owner !== null && isInside(node.graph.owner.node, nodes));
}

/** Values that a node reads, itself or through its subgraphs. */
export function* readBy(node: Node): Generator<Value> {
  for (const input of node.inputs) if (input !== null) yield input;
  for (const body of node.subgraphs.values()) {
    for (const inner of body.nodes) yield* readBy(inner);
    yield* body.outputs;
  }
}

/**
 * Values that `root` is computed from, itself included, nearest first; `follow` says whether to go on past a
 * value.
 */
export function ancestors(root: Value, follow: (value: Value) => boolean = () => true): Set<Value> {
  const seen = new Set([root]);
  for (const value of seen) {
    if (value.producer === null || !follow(value)) continue;
    for (const input of readBy(value.producer)) seen.add(input);
  }
  return seen;
}

/**
 * Everything computed from the elements of a value, itself included; what only reads its shape is not.
 * @param within values that are followed; all where null
 */
export function descendants(root: Value, within: ReadonlySet<Value> | null = null): Set<Value> {
  const seen = new Set([root]);
  for (const value of seen) {
    for (const { node } of value.uses) {
      if (node.type === 'Shape' || node.type === 'Size') continue;
      for (const output of node.outputs) {
        if (output !== null && (within === null || within.has(output))) seen.add(output);
      }
    }
  }
  return seen;
}

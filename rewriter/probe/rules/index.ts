import type { Node } from '../../graph/node.js';
import { carriedOut } from './carried-out.js';
import { control } from './control.js';
import { elementwise } from './elementwise.js';
import { embeddings } from './embeddings.js';
import { generators } from './generators.js';
import { networks } from './networks.js';
import { optimized } from './optimized.js';
import { reductions } from './reductions.js';
import type { Rule } from './rule.js';
import { views } from './views.js';

const RULES: ReadonlyMap<string, Rule> = new Map(
  [views, elementwise, generators, reductions, networks, optimized, embeddings, control].flatMap(group =>
    Object.entries(group),
  ),
);

/**
 * How a node's outputs follow from its inputs; null for operators that are not known.
 * @param carryOut work out products, softmax and normalizations instead of taking their results for data
 */
export function ruleOf(node: Node, carryOut: boolean): Rule | null {
  return (carryOut ? carriedOut[node.type] : undefined) ?? RULES.get(node.type) ?? null;
}

/** Whether elements of a node's results are worked out from elements of its inputs, and not from their shapes. */
export function followsElements(node: Node): boolean {
  return (
    RULES.has(node.type) &&
    !(node.type in networks) &&
    !(node.type in optimized) &&
    node.type !== 'Shape' &&
    node.type !== 'Size'
  );
}

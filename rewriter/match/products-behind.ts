import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import type { Laboratory } from '../probe/laboratory.js';
import { fedBy } from './fed-by.js';
import { isStored } from './operands.js';
import { PRODUCTS } from './product.js';

/** Values to look at between scores and products; a graph of one product per block has some thousand. */
const MOST_VALUES = 20_000;

/**
 * The products of two computed values that `logits` is made from, but for those of values that no data is in, which
 * masks are made by; none where it depends on anything else.
 */
export function productsBehind(logits: Value, laboratory: Laboratory): Node[] {
  const products: Node[] = [];
  const seen = new Set([logits]);
  for (const value of seen) {
    const { producer } = value;
    if (producer === null || producer.type === 'Shape' || producer.type === 'Size') continue;
    if (PRODUCTS.some(type => type === producer.type) && producer.inputs.length === 2) {
      if (fedBy(value) !== 'elements') continue;
      if (producer.inputs.some(input => input === null || isStored(input, laboratory))) return [];
      if (!products.includes(producer)) products.push(producer);
      continue;
    }
    for (const input of producer.inputs) if (input !== null) seen.add(input);
    if (seen.size > MOST_VALUES) return [];
  }
  return products;
}

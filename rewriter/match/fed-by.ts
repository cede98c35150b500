import { readBy } from '../graph/slices.js';
import type { Value } from '../graph/value.js';

/** What a value takes of what the model is fed: elements, shapes at most, or nothing. */
export type FedBy = 'elements' | 'shapes' | 'nothing';

const known = new WeakMap<Value, FedBy>();

/** What of the model's inputs a value is computed from; worked out once for each value. */
export function fedBy(root: Value): FedBy {
  const stack = [root];
  const entered = new Set<Value>();
  for (let value = stack.at(-1); value !== undefined; value = stack.at(-1)) {
    if (known.has(value)) {
      stack.pop();
      continue;
    }
    const inputs = value.producer === null ? [] : [...readBy(value.producer)];
    if (entered.has(value)) {
      known.set(value, joined(value, inputs));
      stack.pop();
      continue;
    }
    entered.add(value);
    for (const input of inputs) if (!known.has(input) && !entered.has(input)) stack.push(input);
  }
  return known.get(root)!;
}

function joined({ producer, fed }: Value, inputs: readonly Value[]): FedBy {
  if (producer === null) return fed ? 'elements' : 'nothing';
  const sources = new Set(inputs.map(input => known.get(input) ?? 'nothing'));
  const measures = producer.type === 'Shape' || producer.type === 'Size';
  if (sources.has('elements')) return measures ? 'shapes' : 'elements';
  return sources.has('shapes') ? 'shapes' : 'nothing';
}

import type { NodeInputs } from '../probe.js';
import { type Sample, UnknownSample } from '../sample.js';
import type { Rules } from './rule.js';

/** The branch that the condition takes; where that depends on data, either, as long as one can be followed. */
function conditional(inputs: NodeInputs): readonly (Sample | null)[] {
  const { node, probe } = inputs;
  const taken = inputs.sample(0).at(0) !== 0 ? 'then_branch' : 'else_branch';
  const body = node.subgraphs.get(taken);
  if (body === undefined) throw new UnknownSample(`${node.label} has no ${taken}`);
  return body.outputs.map(output => probe.tryToSample(output));
}

export const control: Rules = { If: conditional };

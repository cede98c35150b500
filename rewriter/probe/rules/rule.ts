import type { NodeInputs } from '../probe.js';
import type { Sample } from '../sample.js';

/** Samples of a node's outputs from those of its inputs; null for outputs that are not followed. */
export type Rule = (inputs: NodeInputs) => readonly (Sample | null)[];

/** Rules by operator, `domain::name` outside the default domain. */
export type Rules = Readonly<Record<string, Rule>>;

import { InputError } from '../rewriter/errors.js';
import type { FusionSite, Site } from '../rewriter/site.js';
import type { AttributeDefinition, Attributes, AttributeValue, OperatorDefinition } from './operator.js';

export type Settings = Readonly<Record<string, AttributeValue>>;
/** Attributes that mean the same in every attention operator that has them. */
export const SCALE: AttributeDefinition = {
  name: 'scale',
  type: 'float',
  description: 'factor on query . key; absent: 1 / sqrt(head size)',
  fromSite: true,
};
export const CAUSAL: AttributeDefinition = {
  name: 'causal',
  type: 'int',
  least: 0,
  most: 1,
  description: '1: a row sees the keys up to its position',
  fromSite: true,
};
export const CAUSAL_OFFSET: AttributeDefinition = {
  name: 'causal_offset',
  type: 'int',
  description: 'position of row 0; absent: number of keys less number of queries',
  fromSite: true,
};

type Described = Pick<OperatorDefinition, 'id' | 'attributes'>;

/** @throws InputError for an attribute that does not exist or a value that it does not take */
export function checkSettings({ id, attributes }: Described, settings: Settings): void {
  for (const [name, value] of Object.entries(settings)) {
    const definition = attributes.find(attribute => attribute.name === name);
    if (!definition) {
      throw new InputError(`${id} has no attribute "${name}"`, {
        remedy: `It has ${attributes.map(attribute => attribute.name).join(', ')}.`,
      });
    }
    checkValue(id, definition, value);
  }
}

/**
 * The attributes of an operator that takes the place of what it computes itself: those that the graph
 * computes with, which settings may repeat but not change, and settings for the rest.
 * @param defaults values of the attributes that the graph does not fix
 * @throws InputError as {@link checkSettings} does, and for a setting that contradicts the graph
 */
export function fusionAttributes(
  operator: Described,
  { id, parameters }: Pick<FusionSite, 'id' | 'parameters'>,
  settings: Settings,
  defaults: Attributes = {},
): Attributes {
  checkSettings(operator, settings);
  for (const [name, found] of Object.entries(parameters)) {
    const set = settings[name];
    if (set === undefined || JSON.stringify(set) === JSON.stringify(found)) continue;
    throw new InputError(`${operator.id} on ${id}: the graph has ${name} ${JSON.stringify(found)}`, {
      remedy: `Leave "${name}" out: it follows from the site.`,
    });
  }
  return { ...defaults, ...settings, ...parameters };
}

/** @throws RangeError when the site is no fusion: `fidelity` keeps such sites away */
export function asFusion(site: Site): FusionSite {
  if (site.computation === 'softmax') throw new RangeError(`site ${site.id} is softmax attention`);
  return site;
}

function checkValue(id: string, definition: AttributeDefinition, value: AttributeValue): void {
  const { name, type, oneOf, least = Number.NEGATIVE_INFINITY, most = Number.POSITIVE_INFINITY } = definition;
  const real = type === 'float' || type === 'floats';
  const fits = (element: AttributeValue) =>
    typeof element === 'number' &&
    (real ? Number.isFinite(element) : Number.isSafeInteger(element)) &&
    element >= least &&
    element <= most;
  const listed = (type === 'ints' || type === 'floats') && typeof value === 'object';
  const elements = listed ? value : [value];
  const valid =
    type === 'string'
      ? typeof value === 'string' && (oneOf === undefined || oneOf.includes(value))
      : elements.length > 0 && elements.every(fits);
  if (valid) return;
  const bounds = [
    ...(Number.isFinite(least) ? [`at least ${least}`] : []),
    ...(Number.isFinite(most) ? [`at most ${most}`] : []),
  ].join(' and ');
  const kinds = { int: 'an integer', float: 'a number', ints: 'integers', floats: 'numbers', string: 'text' };
  throw new InputError(`${id}: ${name} cannot be ${JSON.stringify(value)}`, {
    remedy:
      oneOf === undefined ? `${`Use ${kinds[type]} ${bounds}`.trim()}.` : `Use one of ${oneOf.join(', ')}.`,
  });
}

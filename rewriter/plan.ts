import type { Settings } from '../custom-ops/attributes.js';
import {
  type Attributes,
  type AttributeValue,
  acceptance,
  type Fidelity,
  type OperatorDefinition,
} from '../custom-ops/operator.js';
import { InputError } from './errors.js';
import { isRecord } from './is-record.js';
import type { Replacement } from './replacement-nodes.js';
import { isAttention, LAYOUT_AXES, type Site } from './site.js';

export type { Settings };

/**
 * Which operator, with which attributes, is to take the place of each site. As a file it is JSON:
 *
 *     { "version": 1, "sites": [ { "id": "blocks.0.attn", "operator": "multipole-attention",
 *                                  "attributes": { "retrieve": 32 } },
 *                                { "id": "blocks.1.attn", "operator": null } ] }
 *
 * `operator` null keeps the site, as does leaving the site out. Attributes that are left out take the
 * operator's defaults. What `rewrite --json` prints is a plan too: `decision`, `reason` and `error` are read
 * over, except that a decision "kept" keeps the site.
 */
export interface Plan {
  readonly version: typeof PLAN_VERSION;
  readonly sites: readonly PlannedSite[];
}

export interface PlannedSite {
  readonly id: string;
  readonly operator: string | null;
  readonly attributes: Settings;
}

export const PLAN_VERSION = 1;

/** What happens to one site, and why. */
export interface Decision {
  readonly site: Site;
  /** Null keeps the site. */
  readonly replacement: Replacement | null;
  readonly reason: string;
}

/** One operator for every site that is selected and that it accepts. */
export interface UniformChoice {
  readonly operator: OperatorDefinition;
  readonly settings: Settings;
  /**
   * Operators, in order of preference, for the sites that compute what one of them does: there it takes the
   * place of `operator`, with its defaults. None when left out.
   */
  readonly fusions?: readonly OperatorDefinition[];
  /** Whether the user will retrain the model, as some operators need; false when left out. */
  readonly retrained?: boolean;
  /** Ids of sites to consider. */
  selects(id: string): boolean;
}

/** A decision as documents show it. */
export interface DecisionDocument {
  readonly id: string;
  readonly decision: 'replaced' | 'kept';
  readonly operator: string | null;
  readonly attributes: Attributes | null;
  readonly reason: string;
  /** Largest isolated error over the validated lengths; null where none was measured. */
  readonly error: number | null;
}

/**
 * Decides on every site by one rule.
 * @param minLength key length below which sites stay exact at run time; null leaves it to the settings and,
 *   where they do not say, to the operator's measured one
 * @throws InputError for a setting that the operator does not take
 */
export function decideUniformly(
  sites: readonly Site[],
  choice: UniformChoice,
  minLength: number | null,
): Decision[] {
  const { operator, settings, fusions = [], retrained = false } = choice;
  return sites.map(site => {
    if (!choice.selects(site.id)) return kept(site, 'not selected');
    const exact = fusions.filter(({ fidelity }) => fidelity[site.computation] === 'exact');
    const taking = exact.find(candidate => acceptance(candidate, site, retrained).ok);
    // Of what no operator can approximate, the one that could be exact says best why it is not.
    const fusion = taking ?? (isAttention(site) ? undefined : exact[0]);
    const wish = fusion === undefined ? { operator, settings } : { operator: fusion, settings: {} };
    return decide(site, { ...wish, minLength, retrained });
  });
}

/**
 * Decides on every site by a plan.
 * @throws InputError when the plan names a site or an operator that is not there, or demands a replacement
 *   that the operator refuses
 */
export function decideByPlan(
  sites: readonly Site[],
  plan: Plan,
  operators: readonly OperatorDefinition[],
  minLength: number | null,
  retrained = false,
): Decision[] {
  const ids = new Set(sites.map(site => site.id));
  for (const { id } of plan.sites) {
    if (ids.has(id)) continue;
    throw new InputError(`plan: the model has no attention site "${id}"`, {
      remedy: `Its sites are ${[...ids].join(', ') || 'none'}.`,
    });
  }
  const planned = new Map(plan.sites.map(site => [site.id, site]));
  return sites.map(site => {
    const wish = planned.get(site.id);
    if (wish === undefined) return kept(site, 'not in the plan');
    if (wish.operator === null) return kept(site, 'kept by the plan');
    const decision = ofSite(site.id, () => {
      const operator = operatorById(operators, wish.operator!);
      return decide(site, { operator, settings: wish.attributes, minLength, retrained });
    });
    if (decision.replacement !== null) return decision;
    throw new InputError(
      `plan: site "${site.id}" cannot be replaced by ${wish.operator}: ${decision.reason}`,
      {
        remedy: 'Set its operator to null in the plan.',
      },
    );
  });
}

/** Lets errors say which site of the plan they are about. */
function ofSite(id: string, decideOn: () => Decision): Decision {
  try {
    return decideOn();
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    throw new InputError(`plan: site "${id}": ${error.message}`, error.details, { cause: error });
  }
}

/** @throws InputError for an unknown id, naming the known ones */
export function operatorById(operators: readonly OperatorDefinition[], id: string): OperatorDefinition {
  const operator = operators.find(candidate => candidate.id === id);
  if (operator) return operator;
  throw new InputError(`unknown operator "${id}"`, {
    remedy: `Known operators: ${operators.map(candidate => candidate.id).join(', ')}.`,
  });
}

export function documentDecision(decision: Decision, error: number | null): DecisionDocument {
  const { site, replacement, reason } = decision;
  return {
    id: site.id,
    decision: replacement ? 'replaced' : 'kept',
    operator: replacement?.operator.id ?? null,
    attributes: replacement?.attributes ?? null,
    reason,
    error,
  };
}

/**
 * Reads a plan.
 * @param text the content of the file
 * @param file its name, for messages
 * @throws InputError naming the place in the document and what is expected there
 */
export function parsePlan(text: string, file: string): Plan {
  const fail = (place: string, message: string): InputError =>
    new InputError(`${file}: ${place}: ${message}`, {
      file,
      remedy: 'A plan is { "version": 1, "sites": [ { "id", "operator", "attributes" } ] }.',
    });
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch (error) {
    throw fail('not a JSON document', (error as Error).message);
  }
  if (!isRecord(document)) throw fail('document', 'expected an object');
  if (document.version !== PLAN_VERSION) {
    throw fail('version', `expected ${PLAN_VERSION}, found ${JSON.stringify(document.version)}`);
  }
  const { sites } = document;
  if (!Array.isArray(sites)) throw fail('sites', 'expected an array');
  const seen = new Set<string>();
  return {
    version: PLAN_VERSION,
    sites: sites.map((entry: unknown, i) => {
      const place = `sites[${i}]`;
      if (!isRecord(entry)) throw fail(place, 'expected an object');
      const unknown = Object.keys(entry).find(key => !SITE_KEYS.includes(key));
      if (unknown !== undefined) throw fail(place, `unknown key "${unknown}"`);
      const { id, operator = null, decision = 'replaced' } = entry;
      const attributes = entry.attributes ?? {};
      if (typeof id !== 'string') throw fail(`${place}.id`, 'expected the id of a site');
      if (seen.has(id)) throw fail(`${place}.id`, `site "${id}" occurs twice`);
      seen.add(id);
      if (operator !== null && typeof operator !== 'string') {
        throw fail(`${place}.operator`, 'expected the id of an operator, or null');
      }
      if (decision !== 'replaced' && decision !== 'kept') {
        throw fail(`${place}.decision`, 'expected "replaced" or "kept"');
      }
      if (!isRecord(attributes)) throw fail(`${place}.attributes`, 'expected an object');
      for (const [name, value] of Object.entries(attributes)) {
        if (!isAttributeValue(value)) {
          throw fail(`${place}.attributes.${name}`, 'expected a number, a string or an array of numbers');
        }
      }
      return { id, operator: decision === 'kept' ? null : operator, attributes: attributes as Settings };
    }),
  };
}

const SITE_KEYS = ['id', 'operator', 'attributes', 'decision', 'reason', 'error'];

/** The attribute that keeps sites exact at run time, for the operators that have it. */
const EXACT_BELOW = 'exact_below';

interface Wish {
  readonly operator: OperatorDefinition;
  readonly settings: Settings;
  readonly minLength: number | null;
  readonly retrained: boolean;
}

function decide(site: Site, { operator, settings, minLength, retrained }: Wish): Decision {
  if (!site.replaceable) return kept(site, site.reason ?? 'not replaceable');
  const accepted = acceptance(operator, site, retrained);
  if (!accepted.ok) return kept(site, accepted.reason);
  const fidelity = operator.fidelity[site.computation]!;
  const hasThreshold = operator.attributes.some(({ name }) => name === EXACT_BELOW);
  // What equals the original at every length has no use for a length to equal it below.
  if (!hasThreshold && minLength !== null && fidelity !== 'exact') {
    throw new InputError(`${operator.id} has no minimum length`, { remedy: 'Leave --min-length out.' });
  }
  const attributes = operator.resolve(site, {
    ...(hasThreshold ? { [EXACT_BELOW]: operator.defaultMinLength } : {}),
    ...settings,
    ...(hasThreshold && minLength !== null ? { [EXACT_BELOW]: minLength } : {}),
  });
  const exactBelow = Number(attributes[EXACT_BELOW] ?? 0);
  const keys = staticKeyLength(site);
  if (keys !== null && keys < exactBelow) {
    return kept(site, `its ${keys} keys are fewer than the minimum length, ${exactBelow}`);
  }
  const limit = exactBelow > 0 ? `; exact below ${exactBelow} keys at run time` : '';
  return {
    site,
    replacement: { site, operator, attributes },
    reason: `${FIDELITY[fidelity]}${limit}`,
  };
}

const FIDELITY: Readonly<Record<Fidelity, string>> = {
  exact: 'equal to the original up to rounding',
  'approximates-softmax': 'approximates softmax attention',
  'needs-trained-weights': 'right only in a model trained with this operator',
};

function kept(site: Site, reason: string): Decision {
  return { site, replacement: null, reason };
}

/** The number of keys where the graph fixes it. */
function staticKeyLength(site: Site): number | null {
  if (site.computation !== 'softmax') return null;
  const { value, layout } = site.key;
  const dims = site.nodes[0]?.graph.resolve(value)?.declared?.dims;
  const dim = dims?.[LAYOUT_AXES[layout].sequence];
  return typeof dim === 'number' ? dim : null;
}

function isAttributeValue(value: unknown): value is AttributeValue {
  return (
    typeof value === 'number' ||
    typeof value === 'string' ||
    (Array.isArray(value) && value.every(item => typeof item === 'number'))
  );
}

import { isAttention, type Site } from '../../rewriter/site.js';
import type { AttentionReach, Difference, SiteValidation } from '../../rewriter/validation.js';
import type { TensorValue } from '../data/tensor.js';
import { CheckFailure } from '../errors.js';
import { groupsWithin } from '../groups-within.js';
import { type ModelSession, openSession } from '../runtime/session.js';
import { bytesPerPosition } from '../site-memory.js';
import { attentionReach } from './attention-reach.js';
import { difference } from './difference.js';
import { exactBelowOf, expose, isolate, type Replacement, siteId } from './replacement.js';
import { keyLength, RowsWithoutKeys, type Skip } from './rows-without-keys.js';
import type { OpenModel } from './validate-models.js';

type Tensors = ReadonlyMap<string, TensorValue>;

/** One site, measured on the inputs of every length. */
export interface MeasuredSite {
  readonly lengths: readonly {
    readonly result: SiteValidation;
    readonly rowsWithoutKeys: RowsWithoutKeys | null;
  }[];
}

/** Values of sites that are held in memory at a time. */
const ALLOWANCE = 256 * 1024 * 1024;

/**
 * Compares what each site computes: isolated, the operator on the original's own query, key and value; and
 * propagated, the same value in the rewritten model. The values are had by making them outputs of copies of
 * the models in memory.
 * @param sites the original's sites by the value that they compute
 * @param inputs one set of inputs for each length
 */
export async function compareSites(
  original: OpenModel,
  rewritten: OpenModel,
  replacements: readonly Replacement[],
  sites: ReadonlyMap<string, Site>,
  inputs: readonly Tensors[],
  onSite: (label: string) => void,
): Promise<MeasuredSite[]> {
  const measured: MeasuredSite[] = [];
  for (const group of inGroups(replacements, sites, inputs)) {
    const isolated = await measureIsolated(original, rewritten, group, sites, inputs, onSite);
    const propagated = await runExposed(
      rewritten,
      group.map(({ output }) => output),
      inputs,
      (values, i) =>
        group.map(({ output }, s) => {
          const { expected, skip } = isolated[s]![i]!;
          return difference(expected, values.get(output)!, skip);
        }),
    );
    for (const [s, replacement] of group.entries()) {
      measured.push({
        lengths: inputs.map((_, i) => ({
          result: describeSite(replacement, isolated[s]![i]!, propagated[i]![s]!),
          rowsWithoutKeys: isolated[s]![i]!.rows,
        })),
      });
    }
  }
  return measured;
}

/** A site at one length: what the original computes, and how far the operator is from it. */
interface Isolated {
  readonly expected: TensorValue;
  readonly measured: Difference;
  readonly keys: number | null;
  readonly rows: RowsWithoutKeys | null;
  readonly skip: Skip | undefined;
  readonly reach: AttentionReach | null;
}

async function measureIsolated(
  original: OpenModel,
  rewritten: OpenModel,
  group: readonly Replacement[],
  sites: ReadonlyMap<string, Site>,
  inputs: readonly Tensors[],
  onSite: (label: string) => void,
): Promise<Isolated[][]> {
  const fed = new Set(original.model.graph.inputs.map(({ name }) => name));
  const values = new Set(
    group
      .flatMap(({ output, inputs }) => [output, ...inputs, ...operandsOf(sites.get(output))])
      .filter(name => !fed.has(name)),
  );
  const operators = new IsolatedOperators(rewritten);
  try {
    const byLength = await runExposed(original, [...values], inputs, async (computed, i) => {
      const tensorOf = (name: string) => computed.get(name) ?? inputs[i]!.get(name)!;
      const results: Isolated[] = [];
      for (const replacement of group) {
        onSite(`site ${siteId(replacement.node)}`);
        const expected = tensorOf(replacement.output);
        const operands = new Map(replacement.inputs.map(name => [name, tensorOf(name)]));
        const actual = await operators.run(replacement, operands);
        const site = sites.get(replacement.output) ?? null;
        const keys = site && keyLength(site, tensorOf);
        const mask = site?.keyMask ? tensorOf(site.keyMask.value) : null;
        const rows = site && keys !== null ? RowsWithoutKeys.ofSite(site, expected, keys, mask) : null;
        const skip = site ? rows?.elementsOfSite(site, expected.dims) : undefined;
        const reach = site && isAttention(site) ? attentionReach(site, tensorOf) : null;
        results.push({ expected, keys, rows, skip, reach, measured: difference(expected, actual, skip) });
      }
      return results;
    });
    return group.map((_, s) => byLength.map(results => results[s]!));
  } finally {
    await operators.release();
  }
}

/** Values that tell how a softmax site attends: a replacement may compute them otherwise, from what is before. */
function operandsOf(site: Site | undefined): readonly string[] {
  if (site === undefined || !isAttention(site)) return [];
  const { query, key, keyMask, cache } = site;
  return [query.value, key.value, keyMask?.value, cache?.past?.key].filter(name => name != null);
}

/** Runs replacements by themselves, on values of the original. */
class IsolatedOperators {
  private readonly sessions = new Map<Replacement, ModelSession>();

  constructor(private readonly rewritten: OpenModel) {}

  /** @throws CheckFailure when the runtime refuses the operator */
  async run(replacement: Replacement, operands: Tensors): Promise<TensorValue> {
    const { model, folder, label, provider } = this.rewritten;
    try {
      let session = this.sessions.get(replacement);
      if (session === undefined) {
        const bytes = isolate(model, replacement, operands);
        // An operator runs once for each length: loading fast matters more than running fast.
        session = await openSession({ bytes, folder }, { provider, unoptimized: true });
        this.sessions.set(replacement, session);
      }
      return (await session.run(operands)).get(replacement.output)!;
    } catch (error) {
      const { name } = replacement.node;
      throw new CheckFailure(
        `${label}: node "${name}" fails on the original's own values: ${(error as Error).message}`,
        { cause: error },
      );
    }
  }

  async release(): Promise<void> {
    for (const session of this.sessions.values()) await session.release();
  }
}

/** Runs a copy of the model that gives inner `values` too; `use` sees them, one set of inputs at a time. */
async function runExposed<T>(
  { model, folder, provider }: OpenModel,
  values: readonly string[],
  inputs: readonly Tensors[],
  use: (values: Tensors, index: number) => T | Promise<T>,
): Promise<T[]> {
  const session = await openSession({ bytes: expose(model, values), folder }, { provider });
  try {
    const results: T[] = [];
    for (const [i, feeds] of inputs.entries()) results.push(await use(await session.run(feeds, values), i));
    return results;
  } finally {
    await session.release();
  }
}

/** Splits the replacements so that the values of one group at all lengths fit the allowance, where they can. */
function inGroups(
  replacements: readonly Replacement[],
  sites: ReadonlyMap<string, Site>,
  inputs: readonly Tensors[],
): Replacement[][] {
  const positions = inputs
    .map(feeds =>
      Math.max(...[...feeds.values()].map(({ dims }) => dims.slice(0, 2).reduce((a, b) => a * b, 1))),
    )
    .reduce((sum, count) => sum + count, 0);
  return groupsWithin(ALLOWANCE, replacements, ({ output, inputs }) => {
    return (inputs.length + 1) * positions * bytesPerPosition(sites.get(output));
  });
}

function describeSite(replacement: Replacement, isolated: Isolated, propagated: Difference): SiteValidation {
  const exactBelow = exactBelowOf(replacement.node);
  const exact = isolated.keys !== null && isolated.keys < exactBelow;
  return {
    id: siteId(replacement.node),
    isolated: isolated.measured.relative_squared_error,
    propagated: propagated.relative_squared_error,
    details: { isolated: isolated.measured, propagated },
    rows_without_keys: isolated.rows?.count ?? 0,
    reach: isolated.reach,
    note: exact ? `exact: ${isolated.keys} keys are fewer than exact_below, ${exactBelow}` : null,
  };
}

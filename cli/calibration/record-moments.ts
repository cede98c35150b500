import type { HeadMoments } from '../../custom-ops/head-rotation.js';
import type { AttentionSite } from '../../rewriter/site.js';
import type { TensorValue } from '../data/tensor.js';
import { groupsWithin } from '../groups-within.js';
import type { Engine } from '../tune/engine.js';
import type { TunableModel } from '../tune/tunable-model.js';
import type { DataWindow } from '../tune/tuning-data.js';
import { expose } from '../validation/replacement.js';
import { MomentSums } from './head-moments.js';

/** Windows that are looked at: each has thousands of rows, and more change moments little. */
export const MOST_WINDOWS = 4;
/** Values of sites that are held in memory at a time. */
const ALLOWANCE = 512 * 1024 * 1024;
const FLOAT_BYTES = 4;

/**
 * Second moments of queries and keys on the first windows, by id of the site, of the sites that are to be
 * calibrated. They are read from the model with the operators' own exact attention, which takes less time and
 * memory than exported attention mostly does. Of the values themselves, those of a few sites and one window are in
 * memory at a time.
 * @param length tokens of a window
 * @throws InputError when the model does not run, or computes what cannot be calibrated on
 */
export async function recordMoments(
  model: TunableModel,
  { length, windows }: { readonly length: number | null; readonly windows: readonly DataWindow[] },
  engine: Engine,
  onWindow: (name: string) => void,
): Promise<Map<string, HeadMoments>> {
  const moments = new Map<string, HeadMoments>();
  if (model.toCalibrate.length === 0) return moments;
  const exact = model.variant(model.exactForms(length));
  const fed = new Set(exact.graph.inputs.map(({ name }) => name));
  const used = windows.slice(0, MOST_WINDOWS);
  const tokens = Math.max(...used.map(({ feeds }) => positions(feeds)));
  const bytes = ({ queryHeads, kvHeads, headDim }: AttentionSite) =>
    (queryHeads! + kvHeads!) * headDim! * tokens * FLOAT_BYTES;
  for (const group of groupsWithin(ALLOWANCE, model.toCalibrate, bytes)) {
    const sums = group.map(site => new MomentSums(site));
    const names = new Set(group.flatMap(({ query, key }) => [query.value, key.value]));
    const computed = [...names].filter(name => !fed.has(name));
    await engine.with(expose(exact, computed), async session => {
      for (const { name, feeds } of used) {
        onWindow(name);
        const values = await engine.run(session, feeds, computed);
        for (const sum of sums) sum.add(value => values.get(value) ?? feeds.get(value));
      }
    });
    for (const [s, site] of group.entries()) moments.set(site.id, sums[s]!.moments);
  }
  return moments;
}

/** Batch rows times tokens of the largest input. */
function positions(feeds: ReadonlyMap<string, TensorValue>): number {
  const counts = [...feeds.values()].map(({ dims }) => dims.slice(0, 2).reduce((a, b) => a * b, 1));
  return Math.max(1, ...counts);
}

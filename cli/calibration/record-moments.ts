import type { HeadMoments } from '../../custom-ops/head-rotation.js';
import type { ModelInfo } from '../../rewriter/onnx/model-info.js';
import type { AttentionSite } from '../../rewriter/site.js';
import type { TensorValue } from '../data/tensor.js';
import { groupsWithin } from '../groups-within.js';
import type { Engine } from '../tune/engine.js';
import { expose } from '../validation/replacement.js';
import { MomentSums } from './head-moments.js';

/** One run of the model. */
interface Run {
  readonly name: string;
  readonly feeds: ReadonlyMap<string, TensorValue>;
}

/** Windows to calibrate on: moments take thousands of rows each, and more change them little. */
export const CALIBRATION_WINDOWS = 4;
/** Values of sites that are held in memory at a time. */
const ALLOWANCE = 512 * 1024 * 1024;
const FLOAT_BYTES = 4;

/**
 * Second moments of queries and keys, by id of the site, over some runs of the model that has the sites in its
 * main graph. Of the values themselves, those of a few sites and one run are in memory at a time.
 * @throws InputError when the model does not run, or computes what cannot be calibrated on
 */
export async function recordMoments(
  model: ModelInfo,
  sites: readonly AttentionSite[],
  runs: readonly Run[],
  engine: Engine,
  onRun: (name: string) => void,
): Promise<Map<string, HeadMoments>> {
  const fed = new Set(model.graph.inputs.map(({ name }) => name));
  const tokens = Math.max(...runs.map(({ feeds }) => positions(feeds)));
  const bytes = ({ queryHeads, kvHeads, headDim }: AttentionSite) =>
    (queryHeads! + kvHeads!) * headDim! * tokens * FLOAT_BYTES;
  const moments = new Map<string, HeadMoments>();
  for (const group of groupsWithin(ALLOWANCE, sites, bytes)) {
    const sums = group.map(site => new MomentSums(site));
    const names = new Set(group.flatMap(({ query, key }) => [query.value, key.value]));
    const computed = [...names].filter(name => !fed.has(name));
    await engine.with(expose(model, computed), async session => {
      for (const { name, feeds } of runs) {
        onRun(name);
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

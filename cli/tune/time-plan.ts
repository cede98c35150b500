import type { ModelInfo } from '../../rewriter/onnx/model-info.js';
import type { ModelSession } from '../runtime/session.js';
import { median } from '../statistics.js';
import { planHash } from './measure-plan.js';
import type { Tensors } from './metric.js';
import { pick, Recording } from './recording.js';
import { type Choices, modelBytes } from './tunable-model.js';
import { exactForm, type TuningContext } from './tuning-context.js';
import type { ShareOfProgress } from './workload.js';

/** Median milliseconds, taken in turns: what else the machine does falls on all of them. */
export interface ModelTimes {
  /** Null for an original that takes too long to take part. */
  readonly original: number | null;
  /** The model with exact attention. */
  readonly exact: number;
  readonly plan: number;
  /** Exact attention by itself, by id of the site. */
  readonly sites: Readonly<Record<string, number>>;
}

/** Timed runs of each, after one that is not timed. */
const ROUNDS = 4;
/** An original that takes longer is not run again and again. */
const SLOW_MS = 3000;

interface Contender {
  readonly session: ModelSession;
  readonly feeds: Tensors;
  readonly fetches: readonly string[];
  readonly ms: number[];
}

/**
 * Times the original, the model with exact attention, its attention alone, and the plan against each other.
 * @param originalMs about how long the original takes
 */
export async function timePlan(
  context: TuningContext,
  forms: Choices,
  originalMs: number,
  progress: ShareOfProgress,
): Promise<ModelTimes> {
  const { engine, model, cache } = context;
  const withOriginal = originalMs <= SLOW_MS;
  return cache.get(`times of plan ${planHash(forms)}`, async () => {
    const contenders: Contender[] = [];
    try {
      progress.step(0, 1, 'preparing to time the plan');
      const whole = [model.variant(context.exact), model.variant(forms)];
      if (withOriginal) whole.push(model.file.model);
      await openAll(context, whole, contenders);
      for (let round = 0; round <= ROUNDS; round++) {
        for (const [c, { session, feeds, fetches, ms }] of contenders.entries()) {
          progress.step(round * contenders.length + c, (ROUNDS + 1) * contenders.length, 'timing the plan');
          const taken = await engine.timed(session, feeds, fetches);
          if (round > 0) ms.push(taken.ms);
        }
      }
    } finally {
      for (const { session } of contenders) await session.release();
    }
    const taken = contenders.map(({ ms }) => median(ms));
    const sites = model.sites.map(({ site }, s) => [site.id, taken[s]!] as const);
    const [exact, plan, original] = taken.slice(sites.length);
    return { original: original ?? null, exact: exact!, plan: plan!, sites: Object.fromEntries(sites) };
  });
}

/** Exact attention of each site, then whole models. */
async function openAll(
  context: TuningContext,
  whole: readonly ModelInfo[],
  contenders: Contender[],
): Promise<void> {
  const { engine, model, metric, data } = context;
  const add = async (bytes: Uint8Array, feeds: Tensors, fetches: readonly string[]) => {
    contenders.push({ session: await engine.open(bytes), feeds, fetches, ms: [] });
  };
  const window = data.heldOut[0]!;
  const parts = model.sites.map(site => model.sitePart(site, exactForm(context, site)));
  const names = new Set(parts.flatMap(({ inputs }) => inputs));
  const recording = new Recording(context, model.variant(context.exact), names, [window]);
  const values = (await recording.ofOriginal()).get(window)!;
  for (const [s, part] of parts.entries()) {
    const feeds = pick(values, part.inputs);
    await add(part.bytes(feeds), feeds, [model.sites[s]!.site.output.value]);
  }
  for (const one of whole) await add(modelBytes(one), window.feeds, metric.outputs);
}

import type { ModelSession } from '../runtime/session.js';
import { median } from '../statistics.js';
import { planHash } from './measure-plan.js';
import type { Tensors } from './metric.js';
import { pick, Recording } from './recording.js';
import type { ShareOfProgress } from './share-of-progress.js';
import { type Choices, modelBytes } from './tunable-model.js';
import { exactForm, type TuningContext } from './tuning-context.js';

/** Median milliseconds, all taken in turns: what else the machine does falls on all of them. */
export interface ModelTimes {
  readonly original: number;
  /** The model with exact attention. */
  readonly exact: number;
  readonly plan: number;
  /** Exact attention by itself, by id of the site. */
  readonly sites: Readonly<Record<string, number>>;
}

/** Timed runs of each, after one that is not timed. */
const ROUNDS = 3;

interface Contender {
  readonly session: ModelSession;
  readonly feeds: Tensors;
  readonly fetches: readonly string[];
  readonly ms: number[];
}

/** Times the original, the model with exact attention, its attention alone, and the plan against each other. */
export async function timePlan(
  context: TuningContext,
  forms: Choices,
  progress: ShareOfProgress,
): Promise<ModelTimes> {
  return context.cache.get(`times of plan ${planHash(forms)}`, async () => {
    const contenders: Contender[] = [];
    try {
      await openAll(context, forms, contenders, name => progress.step(0, 1, `recording ${name}`));
      for (let round = 0; round <= ROUNDS; round++) {
        for (const [c, { session, feeds, fetches, ms }] of contenders.entries()) {
          progress.step(round * contenders.length + c, (ROUNDS + 1) * contenders.length, 'timing the plan');
          const taken = await context.engine.timed(session, feeds, fetches);
          if (round > 0) ms.push(taken.ms);
        }
      }
    } finally {
      for (const { session } of contenders) await session.release();
    }
    const [original, exact, plan, ...sites] = contenders.map(({ ms }) => median(ms));
    return {
      original: original!,
      exact: exact!,
      plan: plan!,
      sites: Object.fromEntries(context.model.sites.map(({ site }, s) => [site.id, sites[s]!])),
    };
  });
}

async function openAll(
  context: TuningContext,
  forms: Choices,
  contenders: Contender[],
  onWindow: (name: string) => void,
): Promise<void> {
  const { engine, model, metric, data } = context;
  const add = async (bytes: Uint8Array, feeds: Tensors, fetches: readonly string[]) => {
    contenders.push({ session: await engine.open(bytes), feeds, fetches, ms: [] });
  };
  const exactModel = model.variant(context.exact);
  const windows = data.heldOut.slice(0, 1);
  for (const whole of [model.file.model, exactModel, model.variant(forms)]) {
    await add(modelBytes(whole), windows[0]!.feeds, metric.outputs);
  }
  const parts = model.sites.map(site => model.sitePart(site, exactForm(context, site)));
  const names = new Set(parts.flatMap(({ inputs }) => inputs));
  const values = await new Recording(context, exactModel, names, windows, onWindow).ofOriginal();
  for (const [s, part] of parts.entries()) {
    const feeds = pick(values, part.inputs);
    await add(part.bytes(feeds), feeds, [model.sites[s]!.site.output.value]);
  }
}

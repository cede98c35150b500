import type { ModelSession } from '../runtime/session.js';
import { median } from '../statistics.js';
import { planHash } from './measure-plan.js';
import type { Tensors } from './metric.js';
import { pick, Recording } from './recording.js';
import { type Choices, modelBytes } from './tunable-model.js';
import { exactForm, type TuningContext } from './tuning-context.js';
import type { DataWindow } from './tuning-data.js';
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

/** Timed runs of each, after one that is not timed: for a report, and for a ratio that has to be right. */
const [ROUNDS, RATIO_ROUNDS] = [4, 6];
/** An original that takes longer is not run again and again. */
const SLOW_MS = 3000;

interface Contender {
  readonly session: ModelSession;
  readonly feeds: Tensors;
  readonly fetches: readonly string[];
}

/**
 * Times the model in a plan against the model with exact attention, on a window to calibrate on. Sites by themselves
 * do not tell: in a whole model nothing that a site works on is in caches.
 * @returns the plan's time in proportion
 */
export function timeAgainstExact(
  context: TuningContext,
  forms: Choices,
  progress: ShareOfProgress,
): Promise<number> {
  const { model, data, cache } = context;
  return cache.get(`time of plan ${planHash(model, forms)} against exact attention`, () =>
    withContenders(async contenders => {
      for (const choices of [context.exact, forms]) {
        contenders.push(await wholeModel(context, modelBytes(model.variant(choices)), data.calibration[0]!));
      }
      const [exact, plan] = await timeInTurns(context, contenders, RATIO_ROUNDS, progress);
      return median(plan!.map((ms, round) => ms / exact![round]!));
    }),
  );
}

/**
 * Times the original, the model with exact attention, its attention alone, and the plan against each other, on a
 * window held out.
 * @param originalMs about how long the original takes
 */
export function timePlan(
  context: TuningContext,
  forms: Choices,
  originalMs: number,
  progress: ShareOfProgress,
): Promise<ModelTimes> {
  const { model, data, cache } = context;
  return cache.get(`times of plan ${planHash(model, forms)}`, () =>
    withContenders(async contenders => {
      const window = data.heldOut[0]!;
      await addExactSites(context, window, contenders);
      const whole = [model.variant(context.exact), model.variant(forms)];
      if (originalMs <= SLOW_MS) whole.push(model.file.model);
      for (const one of whole) contenders.push(await wholeModel(context, modelBytes(one), window));
      const taken = (await timeInTurns(context, contenders, ROUNDS, progress)).map(median);
      const sites = model.sites.map(({ site }, s) => [site.id, taken[s]!] as const);
      const [exact, plan, original] = taken.slice(sites.length);
      return { original: original ?? null, exact: exact!, plan: plan!, sites: Object.fromEntries(sites) };
    }),
  );
}

/** Lets `use` open sessions, and releases those that it opened. */
async function withContenders<T>(use: (contenders: Contender[]) => Promise<T>): Promise<T> {
  const contenders: Contender[] = [];
  try {
    return await use(contenders);
  } finally {
    for (const { session } of contenders) await session.release();
  }
}

/** Milliseconds of each, round by round. */
async function timeInTurns(
  { engine }: TuningContext,
  contenders: readonly Contender[],
  rounds: number,
  progress: ShareOfProgress,
): Promise<number[][]> {
  const ms = contenders.map((): number[] => []);
  for (let round = 0; round <= rounds; round++) {
    for (const [c, { session, feeds, fetches }] of contenders.entries()) {
      progress.step(round * contenders.length + c, (rounds + 1) * contenders.length, 'timing the plan');
      const taken = await engine.timed(session, feeds, fetches);
      if (round > 0) ms[c]!.push(taken.ms);
    }
  }
  return ms;
}

async function wholeModel(
  { engine, metric }: TuningContext,
  bytes: Uint8Array,
  window: DataWindow,
): Promise<Contender> {
  return { session: await engine.open(bytes), feeds: window.feeds, fetches: metric.outputs };
}

/** Exact attention of each site by itself. */
async function addExactSites(
  context: TuningContext,
  window: DataWindow,
  contenders: Contender[],
): Promise<void> {
  const { engine, model } = context;
  const parts = model.sites.map(site => model.sitePart(site, exactForm(context, site)));
  const names = new Set(parts.flatMap(({ inputs }) => inputs));
  const recording = new Recording(context, model.variant(context.exact), names, [window]);
  const values = (await recording.ofOriginal()).get(window)!;
  for (const [s, part] of parts.entries()) {
    const feeds = pick(values, part.inputs);
    const session = await engine.open(part.bytes(feeds));
    contenders.push({ session, feeds, fetches: [model.sites[s]!.site.output.value] });
  }
}

import type { ModelInfo } from '../../rewriter/onnx/model-info.js';
import type { TensorValue } from '../data/tensor.js';
import type { ModelSession } from '../runtime/session.js';
import { mean } from '../statistics.js';
import { sliceModel } from '../validation/slice-model.js';
import type { Observation } from './forecast.js';
import type { GraphPart } from './graph-part.js';
import { headErrors, withHeads } from './heads.js';
import type { Score, Tensors } from './metric.js';
import { pick, type Recording } from './recording.js';
import { describeForm, formKey, type SiteForm, spelledOut } from './site-form.js';
import type { TunableSite } from './tunable-model.js';
import { exactForm, type TuningContext } from './tuning-context.js';
import type { DataWindow } from './tuning-data.js';
import type { ShareOfProgress } from './workload.js';

/** A form by the time that it takes and the errors that it makes. */
export interface Screening {
  /** Time in proportion to the exact form's. */
  readonly ratio: number;
  /** Milliseconds of the exact form, taken beside. */
  readonly exactMs: number;
  /** Relative squared error of each query head's output, fed what exact attention is fed. */
  readonly headErrors: readonly number[];
}

/** Forms whose sessions are open at a time. */
const FORMS_AT_A_TIME = 12;
/** Timed runs of a form that is timed carefully, in turns with the exact one, after one that is not timed. */
const ROUNDS = 2;
/** Ratios of times are kept in steps of this: finer differences are noise and would make searches unstable. */
const RATIO_STEP = 0.005;

/** Measures forms of one site by itself, on the windows that are searched. Everything goes through the cache. */
export class SiteBench {
  /**
   * @param tail the rest of the model behind the site
   * @param recording of what forms of the site, and the tail, are fed
   */
  constructor(
    private readonly context: TuningContext,
    readonly site: TunableSite,
    private readonly exactModel: ModelInfo,
    private readonly tail: GraphPart,
    private readonly recording: () => Recording,
  ) {}

  get id(): string {
    return this.site.site.id;
  }

  /** Query heads; 1 for a site whose heads are not known. */
  get heads(): number {
    return this.site.site.queryHeads ?? 1;
  }

  /** Runs each form once on each window, for its errors and a rough time. */
  async screen(forms: readonly SiteForm[], progress: ShareOfProgress): Promise<Screening[]> {
    const { cache } = this.context;
    const keyOf = (form: SiteForm) => `${this.id}: ${this.keyOfForm(form)}`;
    const missing = forms.filter(form => !cache.has(keyOf(form)));
    for (let start = 0; start < missing.length; start += FORMS_AT_A_TIME) {
      const batch = missing.slice(start, start + FORMS_AT_A_TIME);
      const screened = await this.screenBatch(batch, f =>
        progress.step(start + f, missing.length, `${this.id}: ${describeForm(batch[f]!)}`),
      );
      for (const [f, form] of batch.entries()) await cache.get(keyOf(form), async () => screened[f]!);
    }
    return forms.map(form => cache.stored(keyOf(form)));
  }

  /** Times forms in turns with the exact one: their time in proportion to its. */
  async time(forms: readonly SiteForm[], progress: ShareOfProgress): Promise<number[]> {
    const { cache } = this.context;
    const keyOf = (form: SiteForm) => `${this.id} in turns: ${this.keyOfForm(form)}`;
    const missing = forms.filter(form => !cache.has(keyOf(form)));
    if (missing.length > 0) {
      const [window] = this.context.searched as [DataWindow];
      await this.withSessions([this.exact, ...missing], async contenders => {
        const times = contenders.map((): number[] => []);
        for (let round = -1; round < ROUNDS; round++) {
          progress.step(round + 1, ROUNDS + 1, `${this.id}: timing ${missing.length} in turns`);
          for (const [c, run] of contenders.entries()) {
            const { ms } = await run(window);
            if (round >= 0) times[c]!.push(ms);
          }
        }
        for (const [f, form] of missing.entries()) {
          // What else the machine does only ever adds to a time.
          await cache.get(keyOf(form), async () =>
            rounded(Math.min(...times[f + 1]!) / Math.min(...times[0]!)),
          );
        }
      });
    }
    return forms.map(form => cache.stored(keyOf(form)));
  }

  /**
   * What a form of the site alone does to the metric, by running the rest of the model.
   * @param subsets heads that alone have the form, one subset after the other; null for all heads
   * @returns observations on `windows`, for each of `subsets`
   */
  async observe(
    form: SiteForm,
    subsets: readonly (readonly number[] | null)[],
    windows: readonly DataWindow[],
    progress: ShareOfProgress,
  ): Promise<Observation[][]> {
    const { cache, metric, exactRuns } = this.context;
    const keyOf = (heads: readonly number[] | null, window: DataWindow) =>
      `metric with ${this.id}${heads === null ? '' : ` heads ${heads}`}: ${this.keyOfForm(form)}: ${window.name}`;
    const missing = windows.filter(window => subsets.some(heads => !cache.has(keyOf(heads, window))));
    if (missing.length > 0) {
      const recorded = await this.recording().ofExact();
      await this.withSessions([form], async ([run]) =>
        this.withTail(recorded, async measure => {
          for (const [w, window] of missing.entries()) {
            const exact = recorded.get(window)!.get(this.site.site.output.value)!;
            const { output } = await run!(window);
            for (const [s, heads] of subsets.entries()) {
              const what = `${this.id}${heads === null ? '' : `, head ${heads}`}: ${metric.name}`;
              progress.step(w * subsets.length + s, missing.length * subsets.length, what);
              await cache.get(keyOf(heads, window), () =>
                measure(window, heads === null ? output : withHeads(this.site.site, exact, output, heads)),
              );
            }
          }
        }),
      );
    }
    const before = new Map<DataWindow, number>();
    for (const window of windows) before.set(window, await exactRuns.value(window));
    return subsets.map(heads =>
      windows.map(window => {
        const { value, divergence } = cache.stored<Score>(keyOf(heads, window));
        return { change: value - before.get(window)!, divergence };
      }),
    );
  }

  /** What keys of the cache call a form. */
  private keyOfForm(form: SiteForm): string {
    return formKey(spelledOut(this.site, form));
  }

  private get exact(): SiteForm {
    return exactForm(this.context, this.site);
  }

  private async screenBatch(batch: readonly SiteForm[], tell: (form: number) => void): Promise<Screening[]> {
    const { searched } = this.context;
    const recorded = await this.recording().ofExact();
    const screened = await this.withSessions([this.exact, ...batch], async contenders => {
      const results = contenders.map(() => ({ ms: [] as number[], errors: [] as number[][] }));
      for (const [c, run] of contenders.entries()) {
        tell(Math.max(c - 1, 0));
        for (const window of searched) {
          const expected = recorded.get(window)!.get(this.site.site.output.value)!;
          const { ms, output } = await run(window);
          results[c]!.ms.push(ms);
          results[c]!.errors.push(headErrors(this.site.site, expected, output).map(finite));
        }
        // A first run pays for what later ones find: one more, where it is the only one.
        if (searched.length === 1) results[c]!.ms.push((await run(searched[0]!)).ms);
      }
      return results;
    });
    const [exact, ...others] = screened;
    const exactMs = Math.min(...exact!.ms);
    return others.map(({ ms, errors }) => ({
      ratio: rounded(Math.min(...ms) / exactMs),
      exactMs,
      headErrors: errors[0]!.map((_, head) => mean(errors.map(byHead => byHead[head]!))),
    }));
  }

  /** Opens a session for each form, and lets `use` run them on recorded windows. */
  private async withSessions<T>(
    forms: readonly SiteForm[],
    use: (
      runs: readonly ((window: DataWindow) => Promise<{ ms: number; output: TensorValue }>)[],
    ) => Promise<T>,
  ): Promise<T> {
    const { engine, model, searched } = this.context;
    const output = this.site.site.output.value;
    const sessions: ModelSession[] = [];
    try {
      const runs = [];
      for (const form of forms) {
        const recording = this.recording();
        const recorded = await (form.operator === null ? recording.ofOriginal() : recording.ofExact());
        const part = model.sitePart(this.site, form);
        const feedsOf = (window: DataWindow) => pick(recorded.get(window)!, part.inputs);
        const session = await engine.open(part.bytes(feedsOf(searched[0]!)));
        sessions.push(session);
        runs.push(async (window: DataWindow) => {
          const { ms, outputs } = await engine.timed(session, feedsOf(window), [output]);
          return { ms, output: outputs.get(output)! };
        });
      }
      return await use(runs);
    } finally {
      for (const session of sessions) await session.release();
    }
  }

  /** Lets `use` measure the metric for outputs of the site, by running what is behind it. */
  private async withTail(
    recorded: ReadonlyMap<DataWindow, Tensors>,
    use: (measure: (window: DataWindow, output: TensorValue) => Promise<Score>) => Promise<void>,
  ): Promise<void> {
    const { engine, metric, searched } = this.context;
    const { tail } = this;
    const feedsOf = (values: Tensors) => pick(values, tail.inputs);
    const bytes = sliceModel(this.exactModel, tail, feedsOf(recorded.get(searched[0]!)!));
    await engine.with(bytes, session =>
      use(async (window, output) => {
        const values = recorded.get(window)!;
        const feeds = new Map([...feedsOf(values), [this.site.site.output.value, output]]);
        const outputs = await engine.run(session, feeds, tail.outputs);
        return metric.measure(window, new Map([...values, ...outputs]), values);
      }),
    );
  }
}

function rounded(ratio: number): number {
  return RATIO_STEP * Math.max(1, Math.round(ratio / RATIO_STEP));
}

/** JSON has no infinity: an error that is none is as large as can be. */
function finite(error: number): number {
  return Number.isFinite(error) ? error : Number.MAX_VALUE;
}

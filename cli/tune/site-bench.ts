import type { ModelInfo } from '../../rewriter/onnx/model-info.js';
import type { TensorValue } from '../data/tensor.js';
import type { ModelSession } from '../runtime/session.js';
import { mean, median } from '../statistics.js';
import { sliceModel } from '../validation/slice-model.js';
import { type Change, changeOf } from './change.js';
import type { GraphPart } from './graph-part.js';
import { headErrors, withHead } from './heads.js';
import type { Tensors } from './metric.js';
import { pick, type Recording } from './recording.js';
import { chooseForLoss, chooseForTiming, evenly, mayBeFaster } from './screening.js';
import type { ShareOfProgress } from './share-of-progress.js';
import { describeForm, formKey, formOf, KEPT, type SiteForm } from './site-form.js';
import type { TunableSite } from './tunable-model.js';
import { exactForm, type TuningContext } from './tuning-context.js';
import type { DataWindow } from './tuning-data.js';

/** What one site costs, and what it costs the model, in every form that was looked at. */
export interface SiteMeasurement {
  readonly site: TunableSite;
  /** Milliseconds in the exact form that the others are compared with. */
  readonly exactMs: number;
  readonly forms: readonly FormMeasurement[];
}

export interface FormMeasurement {
  readonly form: SiteForm;
  /** Milliseconds at the length of the data, changes of layout around the operator included. */
  readonly ms: number;
  /** Relative squared error of the site's output, fed what exact attention is fed. */
  readonly error: number;
  /** The same by query head. */
  readonly headErrors: readonly number[];
  /** What this form at this site alone does to the metric; null where it was not worth measuring. */
  readonly change: Change | null;
  /** The same with one query head alone in this form, by head; null where that was not measured. */
  readonly headChanges: readonly Change[] | null;
}

/** A form by time and error, as the cache keeps it. */
interface Screening {
  /** Time in proportion to the exact form's. */
  readonly ratio: number;
  readonly headErrors: readonly number[];
  readonly error: number;
}

interface ScreenedForm extends Screening {
  readonly form: SiteForm;
}

interface Screened {
  /** Milliseconds of the exact form. */
  readonly exactMs: number;
  readonly forms: readonly ScreenedForm[];
}

/** Forms whose heads are measured one by one, at most. */
const MOST_SPLIT = 3;
/** Timed runs of promising forms, in turns with the exact one. */
const ROUNDS = 3;
/** Forms whose sessions are open at a time. */
const FORMS_AT_A_TIME = 6;
/** Ratios of times are kept in steps of this: finer differences are noise and would make searches unstable. */
const RATIO_STEP = 0.01;
/** Part of the budget that a site may take before its heads are looked at one by one. */
const SPLITTING_SHARE = 0.1;

/** Parts of the work on a site, by their usual shares of the time. */
const WEIGHED = 0.6;
/** Of timing, the part that goes to the first look. */
const ROUGHLY = 0.5;

/** Measures one site in all its forms. */
export class SiteBench {
  /**
   * @param tail the rest of the model behind the site
   * @param recording of what forms of the site, and the tail, are fed
   */
  constructor(
    private readonly context: TuningContext,
    private readonly site: TunableSite,
    private readonly exactModel: ModelInfo,
    private readonly tail: GraphPart,
    private readonly recording: Recording,
  ) {}

  /** All forms of a site to look at, the exact one first. */
  static forms(context: TuningContext, site: TunableSite): SiteForm[] {
    const { length } = context.data;
    const forms = [
      exactForm(context, site),
      KEPT,
      ...site.spaces.flatMap(space =>
        [...(space.exact === null ? [] : [space.exact]), ...space.candidates(site.site)].map(settings =>
          formOf(space, settings, length),
        ),
      ),
    ];
    return [...new Map(forms.map(form => [formKey(form), form])).values()];
  }

  /** Times and compares the forms of the site; `measure` does so too, unless it was done. */
  async screen(progress: ShareOfProgress): Promise<Screened> {
    const [exact, ...forms] = SiteBench.forms(this.context, this.site);
    const rough = await this.screenAll(exact!, forms, 0, progress.part(0, ROUGHLY));
    const promising = new Set(chooseForTiming(rough.forms.filter(({ form }) => !this.isExact(form))));
    const again = rough.forms.filter(
      form => promising.has(form) || (this.isExact(form.form) && mayBeFaster(form)),
    );
    const careful = await this.screenAll(
      exact!,
      again.map(({ form }) => form),
      ROUNDS,
      progress.part(ROUGHLY, 1),
    );
    const others = rough.forms.filter(form => !again.includes(form));
    return { exactMs: careful.exactMs ?? rough.exactMs!, forms: [...careful.forms, ...others] };
  }

  /** Finds what the forms that are worth it do to the metric. */
  async measure(progress: ShareOfProgress): Promise<SiteMeasurement> {
    const { exactMs, forms } = await this.screen(progress.part(0, 0));
    const approximate = forms.filter(({ form }) => !this.isExact(form));
    const weighed = chooseForLoss(approximate).map(({ form }) => form);
    const changes = await this.changes(weighed, [null], progress.part(0, WEIGHED));
    const costly = weighed.filter(form => this.isSplit(form, changes.get(form)![0]!));
    const split = this.heads > 1 ? evenly(costly, MOST_SPLIT) : [];
    const heads = Array.from({ length: this.heads }, (_, head) => head);
    const headChanges = await this.changes(split, heads, progress.part(WEIGHED, 1));
    return {
      site: this.site,
      exactMs,
      forms: forms.map(({ ratio, ...measured }) => ({
        ...measured,
        ms: ratio * exactMs,
        change: changes.get(measured.form)?.[0] ?? null,
        headChanges: headChanges.get(measured.form) ?? null,
      })),
    };
  }

  private get heads(): number {
    return this.site.site.queryHeads ?? 1;
  }

  private get label(): string {
    return this.site.site.id;
  }

  /** Whether a form computes the same as the original, up to rounding. */
  private isExact(form: SiteForm): boolean {
    const keys = [
      KEPT,
      ...this.site.spaces.flatMap(space =>
        space.exact === null ? [] : [formOf(space, space.exact, this.context.data.length)],
      ),
    ].map(formKey);
    return keys.includes(formKey(form));
  }

  /** Whether heads are worth measuring apart: only some of them may need more than the form gives. */
  private isSplit(form: SiteForm, change: Change): boolean {
    const space = this.site.spaces.find(({ operator }) => operator.id === form.operator);
    return space?.perHead != null && change.mean > SPLITTING_SHARE * this.context.budget;
  }

  /**
   * Times forms in turns with the exact one, and compares what they compute, on the first window.
   * @param rounds of timed runs; 0 takes the time of the first run of each, which is colder than others
   */
  private async screenAll(
    exact: SiteForm,
    forms: readonly SiteForm[],
    rounds: number,
    progress: ShareOfProgress,
  ): Promise<{ exactMs: number | null; forms: readonly ScreenedForm[] }> {
    const { cache } = this.context;
    const times = rounds === 0 ? 'roughly' : `${rounds} times`;
    const keyOf = (form: SiteForm) => `${this.label} ${times}: ${formKey(form)}`;
    const exactKey = `${this.label} ${times}: exact`;
    const missing = forms.filter(form => !cache.has(keyOf(form)));
    for (let start = 0; start < missing.length; start += FORMS_AT_A_TIME) {
      const batch = missing.slice(start, start + FORMS_AT_A_TIME);
      const tell = (form: SiteForm, done: number) =>
        progress.step(start + done, missing.length, `${this.label}: timing ${describeForm(form)}`);
      const { exactMs, screenings } = await this.screenBatch(exact, batch, rounds, tell);
      await cache.get(exactKey, async () => exactMs);
      for (const [f, form] of batch.entries()) await cache.get(keyOf(form), async () => screenings[f]!);
    }
    return {
      exactMs: cache.has(exactKey) ? cache.stored<number>(exactKey) : null,
      forms: forms.map(form => ({ form, ...cache.stored<Screening>(keyOf(form)) })),
    };
  }

  private async screenBatch(
    exact: SiteForm,
    batch: readonly SiteForm[],
    rounds: number,
    tell: (form: SiteForm, done: number) => void,
  ): Promise<{ exactMs: number; screenings: Screening[] }> {
    const { engine, model } = this.context;
    const output = this.site.site.output.value;
    const expected = (await this.firstValues()).get(output)!;
    const contenders: { form: SiteForm; session: ModelSession; feeds: Tensors; ms: number[] }[] = [];
    const errors: number[][] = [];
    try {
      for (const [f, form] of [exact, ...batch].entries()) {
        tell(form, f / (rounds + 1));
        const values = form.operator === null ? await this.recording.ofOriginal() : await this.firstValues();
        const part = model.sitePart(this.site, form);
        const feeds = pick(values, part.inputs);
        const session = await engine.open(part.bytes(feeds));
        contenders.push({ form, session, feeds, ms: [] });
        const first = await engine.timed(session, feeds, [output]);
        if (rounds === 0) contenders.at(-1)!.ms.push(first.ms);
        errors.push(headErrors(this.site.site, expected, first.outputs.get(output)!).map(finite));
      }
      for (let round = 0; round < rounds; round++) {
        for (const [c, { form, session, feeds, ms }] of contenders.entries()) {
          tell(form, ((round + 1) * contenders.length + c) / (rounds + 1));
          ms.push((await engine.timed(session, feeds, [output])).ms);
        }
      }
    } finally {
      for (const { session } of contenders) await session.release();
    }
    const [reference, ...others] = contenders.map(({ ms }) => ms);
    return {
      exactMs: median(reference!),
      screenings: others.map((ms, f) => {
        const ratio = median(ms.map((one, round) => one / reference![round]!));
        const byHead = errors[f + 1]!;
        return {
          ratio: RATIO_STEP * Math.max(1, Math.round(ratio / RATIO_STEP)),
          headErrors: byHead,
          error: mean(byHead),
        };
      }),
    };
  }

  /**
   * What forms do to the metric on the calibration windows.
   * @param heads that alone have the form, one after the other; null for all of them together
   * @returns by form, for each of `heads`
   */
  private async changes(
    forms: readonly SiteForm[],
    heads: readonly (number | null)[],
    progress: ShareOfProgress,
  ): Promise<ReadonlyMap<SiteForm, Change[]>> {
    const { cache, metric, data, baseline } = this.context;
    const windows = data.calibration;
    const keyOf = (form: SiteForm, head: number | null, window: DataWindow) =>
      `metric with ${this.label}${head === null ? '' : ` head ${head}`}: ${formKey(form)}: ${window.name}`;
    const isMissing = (form: SiteForm) =>
      heads.some(head => windows.some(window => !cache.has(keyOf(form, head, window))));
    const missing = forms.filter(isMissing);
    if (missing.length > 0) {
      const recorded = await this.recording.ofExact();
      await this.withTail(recorded, async measure => {
        for (const [f, form] of missing.entries()) {
          const outputs = await this.outputsOf(form, recorded);
          for (const [w, window] of windows.entries()) {
            for (const [h, head] of heads.entries()) {
              const done = (f * windows.length + w) * heads.length + h;
              const what = `${this.label}${head === null ? '' : `, head ${head}`}: ${metric.name}`;
              progress.step(done, missing.length * windows.length * heads.length, what);
              const exact = recorded.get(window)!.get(this.site.site.output.value)!;
              const output = outputs.get(window)!;
              await cache.get(keyOf(form, head, window), () =>
                measure(window, head === null ? output : withHead(this.site.site, exact, output, head)),
              );
            }
          }
        }
      });
    }
    const before = windows.map(window => baseline.get(window)!);
    const changeIn = (form: SiteForm, head: number | null) => {
      const after = windows.map(window => cache.stored<number>(keyOf(form, head, window)));
      return changeOf(metric.kind, before, after);
    };
    return new Map(forms.map(form => [form, heads.map(head => changeIn(form, head))]));
  }

  /** What a form of the site computes on recorded values, by window. */
  private async outputsOf(
    form: SiteForm,
    recorded: ReadonlyMap<DataWindow, Tensors>,
  ): Promise<ReadonlyMap<DataWindow, TensorValue>> {
    const { engine, model } = this.context;
    const output = this.site.site.output.value;
    const part = model.sitePart(this.site, form);
    const outputs = new Map<DataWindow, TensorValue>();
    const feeds = pick(await this.firstValues(), part.inputs);
    await engine.with(part.bytes(feeds), async session => {
      for (const [window, values] of recorded) {
        outputs.set(window, (await engine.run(session, pick(values, part.inputs), [output])).get(output)!);
      }
    });
    return outputs;
  }

  /** Lets `use` measure the metric for outputs of the site, by running what is behind it. */
  private async withTail(
    recorded: ReadonlyMap<DataWindow, Tensors>,
    use: (measure: (window: DataWindow, output: TensorValue) => Promise<number>) => Promise<void>,
  ): Promise<void> {
    const { engine, metric } = this.context;
    const { tail } = this;
    const feedsOf = (values: Tensors) => pick(values, tail.inputs);
    const bytes = sliceModel(this.exactModel, tail, feedsOf(await this.firstValues()));
    await engine.with(bytes, session =>
      use(async (window, output) => {
        const values = recorded.get(window)!;
        const feeds = new Map([...feedsOf(values), [this.site.site.output.value, output]]);
        const outputs = await engine.run(session, feeds, tail.outputs);
        return metric.measure(window, new Map([...values, ...outputs]), values);
      }),
    );
  }

  private async firstValues(): Promise<Tensors> {
    return (await this.recording.ofExact()).get(this.context.data.calibration[0]!)!;
  }
}

/** JSON has no infinity: an error that is none is as large as can be. */
function finite(error: number): number {
  return Number.isFinite(error) ? error : Number.MAX_VALUE;
}

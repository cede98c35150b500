import { perHeadNumbers, type TuningSettings, type TuningSpace } from '../../custom-ops/tuning-space.js';
import { mean, median } from '../statistics.js';
import { CostModel } from './cost-model.js';
import type { Observation } from './forecast.js';
import { paretoBy } from './pareto.js';
import type { SiteEstimate } from './search.js';
import type { Screening, SiteBench } from './site-bench.js';
import { formKey, formOf, KEPT, type SiteForm } from './site-form.js';
import { exactForm, type TuningContext } from './tuning-context.js';
import type { ShareOfProgress } from './workload.js';

/** A form of a site, as far as it was looked at. */
export interface StudiedForm extends Screening {
  readonly form: SiteForm;
  /** The same for forms that differ in the per-head attribute only. */
  readonly family: string;
  /** Whether its time was taken in turns with the exact form's, and not from single runs. */
  timed: boolean;
  ratio: number;
  /** What it alone did to the metric; null where that is foretold from its errors. */
  observed: readonly Observation[] | null;
}

/** Mean error of a form that shares little with exact attention: what it costs tells nothing of others. */
const FAR_OFF = 0.5;
/** Forms whose whole effect is measured before anything is known of the site. */
const ANCHORS = 3;
/** Of these, the ones whose heads are measured apart. */
const SPLIT_ANCHORS = 2;
/** Part of the budget that a form may take before its heads are told apart. */
const SPLITTING_SHARE = 0.1;
/** Heads told apart one by one; those of the least error are measured together. */
const MOST_GROUPS = 8;
/** Forms whose neighbors are looked at. */
const MOST_EXPLORED = 2;
/** Part of the time of exact attention that a form has to stay below to be of use. */
const WORTHWHILE = 0.95;
/** Combinations of heads that are kept of each family. */
const MOST_MIXES = 60;

/** All that is known of one site, and what its forms are expected to cost. */
export class SiteStudy {
  private readonly forms = new Map<string, StudiedForm>();
  private readonly model: CostModel;
  private readonly explored = new Set<string>();
  /** Milliseconds of the exact form, where there is no other one to be timed beside it. */
  private aloneMs: number | null = null;
  /** How the time of mixed heads compares with shares in the times of their forms, by family. */
  private readonly mixing = new Map<string, number>();

  constructor(
    private readonly context: TuningContext,
    readonly bench: SiteBench,
  ) {
    this.model = new CostModel(bench.heads);
  }

  get id(): string {
    return this.bench.id;
  }

  /** Milliseconds of exact attention, once something was looked at. */
  get exactMs(): number {
    return this.aloneMs ?? median(this.studied.map(({ exactMs }) => exactMs));
  }

  /** Everything that was looked at. */
  get studied(): readonly StudiedForm[] {
    return [...this.forms.values()];
  }

  /** Looks at forms to begin with, and measures what some of them, from fast to accurate, do to the metric. */
  async survey(progress: ShareOfProgress): Promise<void> {
    const { site } = this.bench.site;
    const forms = [
      ...this.exactForms(),
      ...this.bench.site.spaces.flatMap(space =>
        space.candidates(site).map(settings => this.formOf(space, settings)),
      ),
    ];
    if (forms.length === 0) {
      const [alone] = await this.bench.screen([exactForm(this.context, this.bench.site)], progress);
      this.aloneMs = alone!.exactMs;
      return;
    }
    await this.add(forms, progress.part(0, 0.5));
    const anchors = this.anchors();
    for (const [a, anchor] of anchors.entries()) {
      await this.observe(anchor, progress.part(0.5 + a / (2 * ANCHORS), 0.5 + (a + 1) / (2 * ANCHORS)));
    }
  }

  /**
   * Tells heads apart where they may differ in what they cost.
   * @param allowance the divergence that the budget amounts to
   */
  async tellHeadsApart(allowance: number, progress: ShareOfProgress): Promise<void> {
    const costly = this.anchors()
      .filter(({ observed }) => divergenceOf(observed!) > SPLITTING_SHARE * allowance)
      .slice(0, SPLIT_ANCHORS);
    if (costly.length === 0 || this.bench.heads === 1) return;
    const groups = groupsOf(costly[0]!.headErrors);
    const windows = this.context.searched.slice(0, 1);
    const seen: Observation[][][] = [];
    for (const [a, { form }] of costly.entries()) {
      const share = progress.part(a / costly.length, (a + 1) / costly.length);
      seen.push(await this.bench.observe(form, groups, windows, share));
    }
    this.model.learnGroups(
      groups.map((heads, g) => ({
        heads,
        seen: costly.map(({ headErrors }, a) => ({ headErrors, divergence: divergenceOf(seen[a]![g]!) })),
      })),
    );
  }

  /** Whether neighbors of a form are still to be looked at. */
  mayExplore(form: SiteForm): boolean {
    const space = this.spaceOf(form);
    return space !== null && this.explored.size < MOST_EXPLORED && !this.explored.has(this.familyOf(form));
  }

  /** Looks at the neighbors of a form, and at what else its heads may be given. */
  async explore(form: SiteForm, progress: ShareOfProgress): Promise<void> {
    const space = this.spaceOf(form)!;
    const { perHead } = space;
    this.explored.add(this.familyOf(form));
    const settings: TuningSettings = { ...form.attributes };
    const uniform =
      perHead === null ? settings : { ...settings, [perHead.name]: this.middleOf(form, perHead.name) };
    const levels = perHead?.levels.map(level => ({ ...uniform, [perHead.name]: level })) ?? [];
    const neighbors = space.neighbors(this.bench.site.site, uniform);
    await this.add(
      [...levels, ...neighbors].map(one => this.formOf(space, one)),
      progress,
    );
  }

  isVerified(form: SiteForm): boolean {
    const known = this.forms.get(formKey(form));
    return this.isExact(form) || (known?.timed === true && known.observed !== null);
  }

  /** Measures what is only foretold of a form: its time in turns with exact attention, and what it does. */
  async verify(form: SiteForm, progress: ShareOfProgress): Promise<void> {
    await this.add([form], progress.part(0, 0.1));
    const known = this.forms.get(formKey(form))!;
    const mixed = this.mixes(known.family).find(mix => formKey(mix.form) === formKey(form));
    if (!known.timed) {
      known.ratio = (await this.bench.time([form], progress.part(0.1, 0.5)))[0]!;
      known.timed = true;
    }
    if (mixed !== undefined) {
      const before = this.mixing.get(known.family) ?? 1;
      this.mixing.set(known.family, (before * known.ratio * this.exactMs) / mixed.ms);
    }
    await this.observe(known, progress.part(0.5, 1));
  }

  /** The form that computes exact attention, and its time. */
  exact(): SiteEstimate {
    const form = exactForm(this.context, this.bench.site);
    const [fastest] = this.studied
      .filter(studied => this.isExact(studied.form) && studied.ratio < WORTHWHILE)
      .sort((a, b) => a.ratio - b.ratio);
    const ms = (fastest?.ratio ?? 1) * this.exactMs;
    return { form: fastest?.form ?? form, ms, cost: 0, exact: true };
  }

  /** The approximations that are of use, with their expected cost. */
  approximations(): SiteEstimate[] {
    const known = this.useful().map(one => ({
      form: one.form,
      ms: one.ratio * this.exactMs,
      cost: this.costOf(one),
      exact: false,
    }));
    const families = new Set(this.useful().map(({ family }) => family));
    const mixes = [...families]
      .flatMap(family => this.mixes(family))
      .filter(({ form }) => !this.forms.has(formKey(form)));
    return [...known, ...mixes];
  }

  /** The divergence that a form is expected to cause, or did. */
  costOf(studied: StudiedForm): number {
    if (this.isExact(studied.form)) return 0;
    if (studied.observed !== null) return divergenceOf(studied.observed);
    return this.model.headCosts(studied).reduce((sum, cost) => sum + cost, 0);
  }

  /** What the fastest form that was observed as a whole costs, by head. */
  sensitivity(): { readonly studied: StudiedForm; readonly headCosts: readonly number[] } | null {
    const [fastest] = this.anchors().filter(({ observed }) => observed !== null);
    return fastest === undefined ? null : { studied: fastest, headCosts: this.model.headCosts(fastest) };
  }

  /** Whether a form computes the same as the original, up to rounding. */
  isExact(form: SiteForm): boolean {
    const key = formKey(form);
    return [exactForm(this.context, this.bench.site), KEPT, ...this.exactForms()].some(
      exact => formKey(exact) === key,
    );
  }

  private exactForms(): SiteForm[] {
    const own = this.bench.site.spaces.flatMap(space =>
      space.exact === null ? [] : [this.formOf(space, space.exact)],
    );
    const compared = formKey(exactForm(this.context, this.bench.site));
    return [...(this.context.mayKeep ? [KEPT] : []), ...own].filter(form => formKey(form) !== compared);
  }

  private async add(forms: readonly SiteForm[], progress: ShareOfProgress): Promise<void> {
    const unknown = new Map(forms.map(form => [formKey(form), form]));
    for (const key of unknown.keys()) if (this.forms.has(key)) unknown.delete(key);
    const fresh = [...unknown.values()].filter(
      form => formKey(form) !== formKey(exactForm(this.context, this.bench.site)),
    );
    const screened = await this.bench.screen(fresh, progress);
    for (const [f, form] of fresh.entries()) {
      this.forms.set(formKey(form), {
        form,
        family: this.familyOf(form),
        ...screened[f]!,
        timed: false,
        observed: null,
      });
    }
  }

  private async observe(studied: StudiedForm, progress: ShareOfProgress): Promise<void> {
    if (studied.observed !== null) return;
    const [observed] = await this.bench.observe(studied.form, [null], this.context.searched, progress);
    studied.observed = observed!;
    this.model.learnWhole(studied, divergenceOf(observed!));
  }

  private useful(): StudiedForm[] {
    return this.studied.filter(({ form, ratio }) => ratio < WORTHWHILE && !this.isExact(form));
  }

  /** Forms from fast to accurate that nothing beats in time and error both; the same ones once some are observed. */
  private anchors(): StudiedForm[] {
    const observed = this.studied.filter(one => one.observed !== null);
    if (observed.length > 0) return observed.sort((a, b) => a.ratio - b.ratio);
    const close = this.useful().filter(({ headErrors }) => mean(headErrors) < FAR_OFF);
    return evenly(
      paretoBy(
        close.length > 0 ? close : this.useful(),
        ({ ratio }) => ratio,
        ({ headErrors }) => mean(headErrors),
      ),
      ANCHORS,
    );
  }

  private formOf(space: TuningSpace, settings: TuningSettings): SiteForm {
    return formOf(space, settings, this.context.data.length);
  }

  private spaceOf({ operator }: SiteForm): TuningSpace | null {
    return this.bench.site.spaces.find(space => space.operator.id === operator) ?? null;
  }

  private familyOf(form: SiteForm): string {
    const perHead = this.spaceOf(form)?.perHead ?? null;
    if (perHead === null) return formKey(form);
    const { [perHead.name]: _, ...shared } = form.attributes;
    return formKey({ operator: form.operator, attributes: shared });
  }

  /** The per-head numbers of a form. */
  private numbersOf(form: SiteForm, name: string): readonly number[] {
    const { operator } = this.spaceOf(form)!;
    const value = form.attributes[name] ?? operator.resolve(this.bench.site.site, {})[name];
    return perHeadNumbers(value, this.bench.heads);
  }

  /** One number that stands for those of all heads that are not exact. */
  private middleOf(form: SiteForm, name: string): number {
    const exact = this.spaceOf(form)!.exact?.[name];
    const numbers = this.numbersOf(form, name).filter(number => number !== exact);
    return [...numbers].sort((a, b) => a - b)[numbers.length >> 1] ?? 0;
  }

  /** Forms of a family whose heads differ: exact attention or one of the studied forms for each. */
  private mixes(family: string): SiteEstimate[] {
    const members = this.useful().filter(one => one.family === family);
    const [first] = members;
    const space = first === undefined ? null : this.spaceOf(first.form);
    const perHead = space?.perHead?.name;
    const exactNumber = perHead === undefined ? undefined : space!.exact?.[perHead];
    if (perHead === undefined || this.bench.heads === 1) return [];
    const share = (this.mixing.get(family) ?? 1) / this.bench.heads;
    const levels = members.flatMap(({ form, ratio, headErrors }) => {
      const numbers = new Set(this.numbersOf(form, perHead));
      if (numbers.size > 1) return [];
      const costs = this.model.headCosts({ family, headErrors });
      return [{ number: [...numbers][0]!, ms: share * ratio * this.exactMs, costs }];
    });
    if (typeof exactNumber === 'number') {
      const costs = new Array<number>(this.bench.heads).fill(0);
      levels.push({ number: exactNumber, ms: share * this.exactMs, costs });
    }
    interface Mix {
      readonly numbers: readonly number[];
      readonly ms: number;
      readonly cost: number;
    }
    let mixes: readonly Mix[] = [{ numbers: [], ms: 0, cost: 0 }];
    for (let head = 0; head < this.bench.heads; head++) {
      const longer = mixes.flatMap(mix =>
        levels.map(({ number, ms, costs }) => ({
          numbers: [...mix.numbers, number],
          ms: mix.ms + ms,
          cost: mix.cost + costs[head]!,
        })),
      );
      const best = paretoBy(
        longer,
        ({ ms }) => ms,
        ({ cost }) => cost,
      );
      mixes = evenly(best, MOST_MIXES);
    }
    return mixes
      .filter(({ numbers }) => new Set(numbers).size > 1)
      .map(({ numbers, ms, cost }) => ({
        form: {
          operator: first!.form.operator,
          attributes: { ...first!.form.attributes, [perHead]: numbers },
        },
        ms,
        cost,
        exact: false,
      }));
  }
}

/** Mean over windows. */
export function divergenceOf(observations: readonly Observation[]): number {
  return mean(observations.map(({ divergence }) => divergence));
}

/** The heads of largest error one by one, the others together. */
function groupsOf(errors: readonly number[]): number[][] {
  const heads = errors.map((_, head) => head).sort((a, b) => errors[b]! - errors[a]! || a - b);
  if (heads.length <= MOST_GROUPS) return heads.map(head => [head]);
  const apart = heads.slice(0, MOST_GROUPS - 1);
  return [...apart.map(head => [head]), heads.slice(MOST_GROUPS - 1).sort((a, b) => a - b)];
}

/** At most `count` elements: the first, the last, and those evenly in between. */
function evenly<T>(elements: readonly T[], count: number): T[] {
  if (elements.length <= count) return [...elements];
  const step = (elements.length - 1) / (count - 1);
  return Array.from({ length: count }, (_, i) => elements[Math.round(i * step)]!);
}

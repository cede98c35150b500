import { type PlanEstimate, type SiteEstimate, type SiteOptions, searchPlans } from './search.js';
import type { SiteStudy } from './site-study.js';
import type { ShareOfProgress } from './workload.js';

/** Rounds in which the forms of a plan that look best are measured, until they all are. */
const MOST_ROUNDS = 8;
/** A plan has to promise this much less time than one whose forms are all measured to be worth measuring. */
const WORTHWHILE_GAIN = 1.02;

/**
 * Searches for plans while forms are still being measured: what a search picks by what is foretold of it is looked
 * at more closely, which may show that something else is better. Only what is picked costs time.
 */
export class PlanSearch {
  private rounds = 0;

  constructor(private readonly studies: readonly SiteStudy[]) {}

  /** All plans worth a look, fastest first, exact attention last; some by what is foretold of their forms. */
  plans(): PlanEstimate[] {
    return searchPlans(this.studies.map(study => optionsOf(study, () => true)));
  }

  /** The fastest plan whose forms are all measured and whose sites add up to at most `cost`. */
  async fastestWithin(cost: number, progress: ShareOfProgress): Promise<PlanEstimate> {
    for (let round = 0; round < MOST_ROUNDS; round++) {
      const plan = within(this.plans(), cost);
      const pending = this.studies.filter(study => !study.isVerified(plan.sites.get(study.id)!.form));
      const isExplored = pending.every(study => !study.mayExplore(plan.sites.get(study.id)!.form));
      const verified = this.verifiedWithin(cost);
      if (isExplored && verified.ms <= WORTHWHILE_GAIN * plan.ms) return verified;
      for (const [s, study] of pending.entries()) {
        const { form } = plan.sites.get(study.id)!;
        // Each round gets half of what is left of the bar: how many there will be is not known.
        const start = 1 - 2 ** -this.rounds;
        const share = progress.part(start, 1 - 2 ** -(this.rounds + 1));
        const part = share.part(s / pending.length, (s + 1) / pending.length);
        if (study.mayExplore(form)) await study.explore(form, part);
        else await study.verify(form, part);
      }
      this.rounds++;
    }
    return this.verifiedWithin(cost);
  }

  private verifiedWithin(cost: number): PlanEstimate {
    const verified = this.studies.map(study => optionsOf(study, ({ form }) => study.isVerified(form)));
    return within(searchPlans(verified), cost);
  }
}

function optionsOf(study: SiteStudy, admits: (option: SiteEstimate) => boolean): SiteOptions {
  return {
    id: study.id,
    exact: study.exact(),
    approximations: study.approximations().filter(admits),
  };
}

/** The fastest of the plans that cost no more; exact attention costs nothing. */
function within(plans: readonly PlanEstimate[], cost: number): PlanEstimate {
  return plans.find(plan => plan.cost <= cost)!;
}

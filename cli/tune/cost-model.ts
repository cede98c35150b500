import { sum } from '../statistics.js';
/** A form of a site by the errors that it makes. */
export interface FormErrors {
  /** The same for forms that differ in nothing but how much each head is given. */
  readonly family: string;
  /** Relative squared error of each query head's output. */
  readonly headErrors: readonly number[];
}

/** The summed errors of some heads, and the divergence that they alone cause. */
interface Anchor {
  readonly error: number;
  readonly divergence: number;
}

/** Heads that are measured together, for there may be too many to measure one by one. */
interface HeadGroup {
  readonly heads: readonly number[];
  readonly anchors: readonly Anchor[];
}

/** Factors beyond these say more about tiny numbers than about heads. */
const [LEAST_FACTOR, MOST_FACTOR] = [0.2, 5];

/**
 * What errors of a site's output cost the model, learned from a few forms: each head has a sensitivity of its own,
 * heads add up, and forms that were measured as a whole correct the sum for forms close to them, those of their own
 * family first.
 */
export class CostModel {
  private groups: readonly HeadGroup[];
  private readonly wholes: (FormErrors & { readonly divergence: number })[] = [];

  constructor(private readonly headCount: number) {
    this.groups = [{ heads: Array.from({ length: headCount }, (_, head) => head), anchors: [] }];
  }

  /** Learns what a form of all heads does to the model. */
  learnWhole(form: FormErrors, divergence: number): void {
    this.wholes.push({ ...form, divergence });
  }

  /** Learns what groups of heads do alone, in place of shares in what all of them do. */
  learnGroups(
    groups: readonly {
      readonly heads: readonly number[];
      readonly seen: readonly { readonly headErrors: readonly number[]; readonly divergence: number }[];
    }[],
  ): void {
    this.groups = groups.map(({ heads, seen }) => ({
      heads,
      anchors: sorted(
        seen.map(({ headErrors, divergence }) => ({ error: total(heads, headErrors), divergence })),
      ),
    }));
  }

  /** The divergence that each head is expected to add. */
  headCosts({ family, headErrors }: FormErrors): number[] {
    const costs = this.plainCosts(headErrors);
    const factor = this.correction(family, sum(costs));
    return costs.map(cost => factor * cost);
  }

  private correction(family: string, plain: number): number {
    const related = this.wholes.filter(whole => whole.family === family);
    let nearest = 1;
    let least = Number.POSITIVE_INFINITY;
    for (const { headErrors, divergence } of related.length > 0 ? related : this.wholes) {
      const summed = sum(this.plainCosts(headErrors));
      const distance = Math.abs(Math.log(summed / plain));
      if (!(distance < least)) continue;
      least = distance;
      nearest = Math.min(Math.max(divergence / summed, LEAST_FACTOR), MOST_FACTOR);
    }
    return nearest;
  }

  private plainCosts(headErrors: readonly number[]): number[] {
    const costs = new Array<number>(this.headCount).fill(0);
    const known = this.groups.length > 1;
    const wholes = this.wholes.map(whole => ({ error: sum(whole.headErrors), ...whole }));
    for (const { heads, anchors } of this.groups) {
      const error = total(heads, headErrors);
      if (error === 0) continue;
      const cost = costAt(known ? anchors : sorted(wholes), error);
      for (const head of heads) costs[head] = (cost * headErrors[head]!) / error;
    }
    return costs;
  }
}

/** In proportion to the error beyond the anchors, by a power of it between two of them. */
function costAt(anchors: readonly Anchor[], error: number): number {
  const above = anchors.findIndex(anchor => anchor.error >= error);
  const low = anchors[above === -1 ? anchors.length - 1 : above - 1];
  const high = above === -1 ? undefined : anchors[above];
  if (low === undefined || high === undefined) {
    const near = low ?? high;
    return near === undefined || near.error === 0 ? error : (near.divergence * error) / near.error;
  }
  if (low.error === 0 || low.divergence <= 0 || high.divergence <= 0 || low.error === high.error) {
    return (high.divergence * error) / high.error;
  }
  const share = Math.log(error / low.error) / Math.log(high.error / low.error);
  return low.divergence * (high.divergence / low.divergence) ** share;
}

function sorted<T extends Anchor>(anchors: readonly T[]): T[] {
  return [...anchors].sort((a, b) => a.error - b.error);
}

function total(heads: readonly number[], errors: readonly number[]): number {
  return sum(heads.map(head => errors[head]!));
}

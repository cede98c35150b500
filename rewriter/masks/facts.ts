import type { Constants } from '../graph/constants.js';
import type { Graph } from '../graph/graph.js';
import type { Value } from '../graph/value.js';
import { drawn, type Feed, firstRow, uniform } from '../probe/feed.js';
import { type Laboratory, OTHER_DATA, PLAIN, type Trial } from '../probe/laboratory.js';
import { UnknownSample } from '../probe/sample.js';
import { Structure } from '../probe/structure.js';
import type { AttentionSite, KeyMask } from '../site.js';
import { type Band, bandOf, sharpened } from './band.js';
import { findKeyMask, type PaddedKeys, paddedKeys } from './key-padding.js';
import { type Extent, HIDDEN_AT_MOST, type LogitSource } from './logits.js';
import { isRelative } from './relative-bias.js';
import { dataIn, maskSlice, numbersIn } from './slice.js';
import { type Entry, type Table, tabulate } from './table.js';

/** What probing says about the scores of a site; the kinds of masks are statements about these facts. */
export interface MaskFacts {
  /** Why the mask is not understood; null when it is. */
  readonly unclear: string | null;
  /** The logits are no linear function of the products. */
  readonly softcap: boolean;
  /** What products are multiplied by on their way into the softmax; null when that is not one number. */
  readonly factor: number | null;
  /** Something besides constant factors takes part in the scores. */
  readonly masked: boolean;
  /** What is added to the logits of visible keys: nothing, a function of the distance, of positions, or data. */
  readonly bias: 'none' | 'relative' | 'positional' | 'data';
  /** Visible keys by distance when every token is present. */
  readonly band: Band;
  /** The keys of absent tokens are hidden. */
  readonly padding: boolean;
  /** The value that says which keys are present; null when the graph has none. */
  readonly keyMask: KeyMask | null;
  readonly alignment: AttentionSite['alignment'];
  /** The logits of a row whose keys are all hidden: all the same number, all minus infinity, or no such row. */
  readonly emptyRow: 'equal' | 'infinite' | 'unknown' | 'never';
}

/** A site as far as its mask is concerned. */
export interface MaskedSite {
  readonly logits: LogitSource;
  /** The graph of the site: a key mask has to be visible from there. */
  readonly graph: Graph;
  /** Sizes of the site's score matrix. @throws UnknownSample */
  extent(trial: Trial): Extent;
}

const NO_FACTS: MaskFacts = {
  unclear: null,
  softcap: false,
  factor: null,
  masked: true,
  bias: 'none',
  band: { lower: null, upper: null, offset: 'upper-left' },
  padding: false,
  keyMask: null,
  alignment: 'equal',
  emptyRow: 'unknown',
};

const PAIRS_BY_DATA =
  'which pairs of query and key are visible depends on data: a mask that is given has to be one of keys, [batch, keys]';

/** Finds out about the masks of a model's sites, about equal ones once. */
export class MaskInspector {
  private readonly structure: Structure;
  private readonly known = new Map<Graph, Map<string, MaskFacts>>();

  constructor(
    private readonly laboratory: Laboratory,
    private readonly constants: Constants,
  ) {
    this.structure = new Structure(laboratory, constants);
  }

  /**
   * Probes the score matrix of a site: at small sizes in full, then at a length beyond every constant that the
   * mask is made from, so that windows and stored masks show; with all tokens present, with some absent, and
   * with other data.
   */
  inspect(site: MaskedSite): MaskFacts {
    try {
      const extents = this.laboratory.trials.map(trial => Object.values(site.extent(trial)).join(','));
      const key = `${extents.join(';')} ${site.logits.identity(this.structure)}`;
      let inGraph = this.known.get(site.graph);
      if (inGraph === undefined) {
        inGraph = new Map();
        this.known.set(site.graph, inGraph);
      }
      let facts = inGraph.get(key);
      if (facts === undefined) {
        facts = new Investigation(site, this.laboratory, this.constants).facts();
        inGraph.set(key, facts);
      }
      return facts;
    } catch (error) {
      if (!(error instanceof UnknownSample)) throw error;
      return { ...NO_FACTS, unclear: `the mask cannot be followed: ${error.message}` };
    }
  }
}

/** Rounded powers of the square root of 2: distances to look at besides the ones that the mask names. */
const DISTANCES: readonly number[] = Array.from({ length: 34 }, (_, i) => Math.round(2 ** (i / 2)));

/** About as large as trained products of query and key get, and much larger. */
const ORDINARY_PRODUCT = 8;
const LARGE_PRODUCT = 2 ** 14;

/**
 * Whether a finite mask hides so well that the product makes no difference: it stands in the product's place,
 * or is so large that rounding loses the product, and not only in half precision, which runtimes may widen.
 */
function losesProducts(hidden: number, logit: (product: number) => number): boolean {
  if (logit(LARGE_PRODUCT) === hidden) return true;
  return logit(ORDINARY_PRODUCT) === hidden && Math.fround(hidden + 1) === hidden;
}

/** Numbers to try as tokens. */
const MOST_CANDIDATES = 64;

class Investigation {
  private readonly slice: ReadonlySet<Value>;
  private readonly distances: readonly number[];
  /** Token ids and mask elements that the mask may be looking for. */
  private readonly candidates: readonly number[];
  private readonly trials: readonly Trial[];

  constructor(
    private readonly site: MaskedSite,
    private readonly laboratory: Laboratory,
    constants: Constants,
  ) {
    const source = site.logits;
    this.slice = maskSlice(source.terms);
    const numbers = [...numbersIn(this.slice, constants), ...source.distances];
    this.distances = [...DISTANCES, ...numbers.flatMap(number => [number - 1, number, number + 1])];
    this.candidates = [...new Set([0, 1, 2, ...numbers])].slice(0, MOST_CANDIDATES);
    // Beyond every number in the mask, or as far as the model goes.
    const long = !source.masked ? null : laboratory.longTrial(2 * Math.max(24, ...numbers) + 9);
    this.trials = long === null ? laboratory.trials : [...laboratory.trials, long];
  }

  facts(): MaskFacts {
    const present = this.presentToken();
    const tables = this.trials.map(trial => this.table(trial, this.uniformFeed(present, PLAIN.seed)));
    const other = this.table(this.trials[0]!, this.uniformFeed(present, OTHER_DATA.seed));
    const visible = tables.flatMap(table => table.entries.filter(entry => !entry.hidden));
    const softcap = visible.some(entry => !entry.linear);
    const facts = { ...NO_FACTS, masked: this.site.logits.masked, softcap };
    if (tables.some(table => table.entries.every(entry => entry.hidden))) {
      return { ...facts, unclear: 'the mask hides every key' };
    }
    if (other.entries.some((entry, e) => entry.hidden !== tables[0]!.entries[e]!.hidden)) {
      return { ...facts, unclear: 'which keys are visible depends on data' };
    }
    const known = { ...facts, factor: commonFactor(visible), bias: biasOf(tables, other) };
    const [data] = known.bias === 'data' ? [] : dataIn(this.slice);
    if (data !== undefined) return { ...known, unclear: `the mask may depend on data ('${data.name}')` };
    const found = bandOf(tables);
    if (found === null) return { ...known, unclear: 'the visible keys are no band around the diagonal' };
    const band = sharpened(found, tables.at(-1)!, this.hiding(present));
    const square = tables.every(({ extent }) => extent.rows === extent.columns);
    const placed = { ...known, band, alignment: square ? ('equal' as const) : band.offset };
    if (![...this.slice].some(value => value.fed)) return { ...placed, emptyRow: 'never' };
    const tokens = this.tellingTokens(present, tables[0]!);
    const padded = this.padded([...tokens, present], tables);
    if (padded === null) return { ...placed, unclear: PAIRS_BY_DATA };
    if (!padded.some(({ keys }) => keys.some(({ hidden }) => hidden)))
      return { ...placed, emptyRow: 'never' };
    const extents = new Map(this.trials.map((trial, t) => [trial, tables[t]!.extent]));
    return {
      ...placed,
      padding: true,
      keyMask: findKeyMask(this.slice, this.site.graph, padded, extents),
      emptyRow: this.emptyRow(tokens, present),
    };
  }

  private table(trial: Trial, feed: Feed): Table {
    return tabulate(this.site.logits, trial.probe(feed), this.site.extent(trial), this.distances);
  }

  /** Whether a place of the longest table is hidden where every token is present. */
  private hiding(present: number): (i: number, j: number) => boolean {
    const trial = this.trials.at(-1)!;
    let logit: ReturnType<LogitSource['at']> | null = null;
    return (i, j) => {
      logit ??= this.site.logits.at(
        trial.probe(this.uniformFeed(present, PLAIN.seed)),
        this.site.extent(trial),
      );
      return logit({ b: 0, h: 0, i, j }, 0) <= HIDDEN_AT_MOST;
    };
  }

  private uniformFeed(token: number, seed: number): Feed {
    if (token === 1) return seed === PLAIN.seed ? PLAIN : OTHER_DATA;
    return this.laboratory.feed(`uniform ${seed} ${token}`, () => uniform(seed, token));
  }

  /** The token that hides nothing where all are like it: 1, but where that is the id of padding. */
  private presentToken(): number {
    const shows = (token: number) =>
      this.table(this.trials[0]!, this.uniformFeed(token, PLAIN.seed)).entries.some(entry => !entry.hidden);
    return [1, ...this.candidates].find(shows) ?? 1;
  }

  /** The tokens that hide something where all are like them. */
  private tellingTokens(present: number, table: Table): readonly number[] {
    return this.candidates.filter(token => {
      if (token === present) return false;
      const alike = followed(() => this.table(this.trials[0]!, this.uniformFeed(token, PLAIN.seed)));
      return alike?.entries.some((entry, e) => entry.hidden && !table.entries[e]!.hidden) === true;
    });
  }

  /** What absent tokens hide; null when that is not a matter of single keys. */
  private padded(tokens: readonly number[], tables: readonly Table[]): readonly PaddedKeys[] | null {
    // Any token may count as absent or present; where that makes no sense the input is a mask of zeros and ones.
    const any = [...new Set([...tokens, 0, 1, 2])];
    return followed(() => this.paddedBy(any, tables)) ?? this.paddedBy([0, 1], tables);
  }

  private paddedBy(tokens: readonly number[], tables: readonly Table[]): readonly PaddedKeys[] | null {
    const padded: PaddedKeys[] = [];
    for (const seed of [11, 12]) {
      const key = `drawn ${seed} ${tokens.join(' ')}`;
      const feed = this.laboratory.feed(key, () => drawn(seed, tokens));
      for (const [t, trial] of this.trials.entries()) {
        const absent = this.table(trial, feed);
        // Absent tokens may hide keys, not weaken them.
        if (isConstantByRow(tables[t]!) && !isConstantByRow(absent)) return null;
        const keys = paddedKeys(tables[t]!, absent);
        if (keys === null) return null;
        padded.push({ trial, feed, keys });
      }
    }
    return padded;
  }

  /** The last row of the first batch element when none of its tokens is present. */
  private emptyRow(tokens: readonly number[], present: number): MaskFacts['emptyRow'] {
    const trial = this.trials[0]!;
    const extent = this.site.extent(trial);
    for (const absent of tokens) {
      const key = `first ${absent} ${present}`;
      const feed = this.laboratory.feed(key, () => firstRow(PLAIN.seed, absent, present));
      const logit = this.site.logits.at(trial.probe(feed), extent);
      const row = Array.from({ length: extent.columns }, (_, j) => ({ b: 0, h: 0, i: extent.rows - 1, j }));
      const logits = row.map(place => logit(place, 0));
      if (logits.some(value => value > HIDDEN_AT_MOST)) continue;
      if (logits.every(value => value === Number.NEGATIVE_INFINITY)) return 'infinite';
      const lost = row.every((place, j) => losesProducts(logits[j]!, product => logit(place, product)));
      return lost && logits.every(value => value === logits[0]) ? 'equal' : 'unknown';
    }
    return 'unknown';
  }
}

/** A result; null where numbers that make no sense as tokens lead to none: a length beyond the tokens, say. */
function followed<T>(find: () => T): T | null {
  try {
    return find();
  } catch (error) {
    if (error instanceof UnknownSample) return null;
    throw error;
  }
}

/** The factor of a biased place, that half precision rounds, as a share of it. */
const BIASED_FACTOR_TOLERANCE = 2 ** -8;

/** The one factor of all visible places, up to the rounding of float32 or, where biased, of half precision; null when they differ. */
function commonFactor(visible: readonly Entry[]): number | null {
  // The least biased place has lost the fewest digits.
  const best = visible.reduce((one, other) => (Math.abs(other.bias) < Math.abs(one.bias) ? other : one));
  const { factor } = best;
  const agree = visible.every(
    entry =>
      Math.abs(entry.factor - factor) <=
      1e-5 * (Math.abs(factor) + Math.abs(entry.bias)) +
        (entry.bias === 0 ? 0 : BIASED_FACTOR_TOLERANCE * Math.abs(factor)),
  );
  return agree ? factor : null;
}

function biasOf(tables: readonly Table[], other: Table): MaskFacts['bias'] {
  const differs = other.entries.some(
    (entry, e) => !entry.hidden && entry.bias !== tables[0]!.entries[e]!.bias,
  );
  if (differs) return 'data';
  if (tables.every(isConstantByRow)) return 'none';
  return tables.every(isRelative) ? 'relative' : 'positional';
}

/** A bias common to a whole row changes nothing: the softmax does not see it. */
function isConstantByRow(table: Table): boolean {
  const biases = new Map<string, number>();
  return table.entries.every(({ b, h, i, hidden, bias }) => {
    if (hidden) return true;
    const row = `${b} ${h} ${i}`;
    const known = biases.get(row) ?? bias;
    biases.set(row, known);
    return known === bias;
  });
}

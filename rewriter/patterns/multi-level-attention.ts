import { SeededRandom } from '../../custom-ops/seeded-random.js';
import type { Node } from '../graph/node.js';
import { ancestors, descendants } from '../graph/slices.js';
import type { Value } from '../graph/value.js';
import { HIDDEN_AT_MOST } from '../masks/logits.js';
import { PRODUCTS, type Product, productOf } from '../match/product.js';
import { ScoreExperiment } from '../match/score-experiment.js';
import { drawn, type Feed } from '../probe/feed.js';
import { type Laboratory, OTHER_DATA, PLAIN, type Trial } from '../probe/laboratory.js';
import { coordinates, indexOf } from '../probe/sample.js';
import type { Move } from '../site.js';
import type { FormContext, Fusion, Miss, MovedValue, SourceForm } from './source-form.js';
import { sumOfProducts } from './weighted-sum.js';

/**
 * Multi-level attention in standard operators: softmax over a sum of products of parts of query and key, each
 * part counting only where both tokens lie in one block of its level (operator specification, section 2).
 *
 * Implementations write the sum in many ways (masks, Where, blocks that are multiplied apart and put back), so
 * the form is recognized by what it computes: the products are found, the scores are computed with unit vectors
 * to learn levels, blocks and factors, and then with random numbers to see that nothing else is in them.
 */
export const multiLevelAttention: SourceForm = {
  name: 'multi-level-attention',
  anchors: PRODUCTS,
  recognize,
};

/** Longest block that is looked for, and most numbers of a constant that may hold its length. */
const MOST_BLOCK = 1 << 16;
const MOST_NUMBERS = 16;

/** Positions compared at each sample size, and rounding allowed, relative to the sum of magnitudes. */
const COMPARISONS = 400;
const ROUNDING = 1e-5;

function recognize(anchor: Node, context: FormContext): Fusion | Miss {
  const { laboratory } = context;
  const output = anchor.outputs[0]!;
  const far = (reason: string): Miss => ({ node: anchor, reason, near: false, nodes: [] });
  const attention = sumOfProducts(anchor, context);
  if (typeof attention === 'string') return far(attention);
  const { found, sum, logits, products } = attention;
  if (products.length < 2) return far('one product of query and key');
  const operands = { query: commonSource(products, 'left'), key: commonSource(products, 'right') };
  if (operands.query === null || operands.key === null || operands.query === operands.key) {
    return far('its products have no query and key in common');
  }

  const miss = (reason: string): Miss => ({ node: anchor, reason, near: true, nodes: found.matched });
  const experiment = new ScoreExperiment(operands.query, operands.key, logits, products);
  const places = layoutsOf(operands.query, operands.key, output, sum, laboratory);
  if (places.length === 0) return miss('the axes of query, key, value and output are not those of heads');
  const trials = trialsFor(longestNumber(logits, context), laboratory);
  const problems: string[] = [];
  for (const layout of places) {
    const scores = new Scores(experiment, layout);
    const levels = levelsOf(scores, trials);
    if (typeof levels === 'string') {
      problems.push(levels);
      continue;
    }
    const problem = difference(scores, levels, trials);
    if (problem === null) return fusionOf(anchor, found.nodes.get('softmax')!, operands, layout, levels);
    problems.push(problem);
  }
  return miss(problems[0]!);
}

/** Operators between query or key and a product that pick elements, move them, or scale them. */
const PICKS: ReadonlySet<string> = new Set([
  'Identity',
  'Cast',
  'Slice',
  'Split',
  'Gather',
  'Reshape',
  'Unsqueeze',
  'Squeeze',
  'Flatten',
  'Transpose',
  'Expand',
  'Mul',
  'Div',
]);

/** The nearest value that all products take their left, or right, factor from. */
function commonSource(products: readonly Node[], side: 'left' | 'right'): Value | null {
  const paths = products.map(product => {
    const path = [productOf(product)![side]];
    for (let step = path[0]!; ; ) {
      const { producer } = step;
      const next = producer === null || !PICKS.has(producer.type) ? null : producer.inputs[0];
      if (next == null) return path;
      path.push(next);
      step = next;
    }
  });
  return paths[0]!.find(value => paths.every(path => path.includes(value))) ?? null;
}

/** How the values of the graph are laid out, by the moves between them and the operator's [B,H,N,D]. */
interface Layout {
  readonly rank: 3 | 4;
  /** Axes of batch, heads, sequence and channels in query and key; with rank 3, batch and heads are one. */
  readonly query: readonly number[];
  readonly key: readonly number[];
  readonly value: MovedValue;
  readonly output: MovedValue;
  readonly headDim: number;
  /** Null where batch and heads are one axis. */
  readonly heads: number | null;
}

const ORDERS: Readonly<Record<3 | 4, { readonly query: number[][]; readonly key: number[][] }>> = {
  4: {
    query: [
      [0, 1, 2, 3],
      [0, 2, 1, 3],
    ],
    key: [
      [0, 1, 2, 3],
      [0, 2, 1, 3],
      [0, 1, 3, 2],
    ],
  },
  3: {
    query: [[0, 1, 2]],
    key: [
      [0, 1, 2],
      [0, 2, 1],
    ],
  },
};

/** Layouts whose sizes agree, of which the scores decide. */
function layoutsOf(
  query: Value,
  key: Value,
  output: Value,
  sum: Product,
  { trials }: Laboratory,
): readonly Layout[] {
  const dimsOf = (value: Value) => trials.map(trial => trial.probe(PLAIN).sample(value).dims);
  const [queries, keys, values, outputs] = [query, key, sum.right, output].map(dimsOf) as [
    (readonly number[])[],
    (readonly number[])[],
    (readonly number[])[],
    (readonly number[])[],
  ];
  const rank = outputs[0]!.length;
  if (rank !== 3 && rank !== 4) return [];
  if ([queries, keys, values].some(dims => dims[0]!.length !== rank)) return [];
  const { inner, outer } = sum.axes.right(rank);
  const { rows, columns } = sum.result(rank);
  if (inner !== rank - 2 || outer !== rank - 1 || rows !== rank - 2 || columns !== rank - 1) return [];
  if (sum.factor !== 1) return [];
  const agree = (queryOrder: readonly number[], keyOrder: readonly number[]) =>
    outputs.every((out, t) => {
      const q = queryOrder.map(axis => queries[t]![axis]!);
      const k = keyOrder.map(axis => keys[t]![axis]!);
      const v = values[t]!;
      const headDim = queries[0]![queryOrder.at(-1)!];
      return (
        q.slice(0, -1).every((dim, axis) => dim === out[axis]) &&
        k.slice(0, -1).every((dim, axis) => dim === v[axis]) &&
        v.at(-1) === outputs[0]!.at(-1) &&
        q.at(-2) === k.at(-2) &&
        q.at(-1) === headDim &&
        k.at(-1) === headDim &&
        (rank === 3 || (q[1] === outputs[0]![1] && q[1]! % k[1]! === 0)) &&
        q[0] === k[0]
      );
    });
  const headed = (width: number): Move[] => (rank === 4 ? [] : [{ reshape: [0, 1, -1, width] }]);
  const valueDim = outputs[0]!.at(-1)!;
  return ORDERS[rank].query.flatMap(queryOrder =>
    ORDERS[rank].key
      .filter(keyOrder => agree(queryOrder, keyOrder))
      .map(keyOrder => ({
        rank,
        query: queryOrder,
        key: keyOrder,
        value: { value: sum.right, moves: headed(valueDim) },
        output: { value: output, moves: rank === 4 ? [] : [{ reshape: [0, -1, valueDim] }] },
        headDim: queries[0]![queryOrder.at(-1)!]!,
        heads: rank === 4 ? outputs[0]![1]! : null,
      })),
  );
}

/** What a token holds: its element of dimension d, by batch row, head and position. */
type Content = (b: number, h: number, n: number, d: number) => number;

/** The logits of a site for contents of query and key, by batch row, head, row and key. */
class Scores {
  constructor(
    private readonly experiment: ScoreExperiment,
    readonly layout: Layout,
  ) {}

  /** Number of tokens at the sizes of a trial. */
  tokens(trial: Trial): number {
    const { dims } = trial.probe(PLAIN).sample(this.layout.output.value);
    return dims.at(-2)!;
  }

  /** Batch rows and heads. */
  parts(trial: Trial): readonly [number, number] {
    const { dims } = trial.probe(PLAIN).sample(this.layout.output.value);
    return this.layout.rank === 4 ? [dims[0]!, dims[1]!] : [dims[0]!, 1];
  }

  run(
    trial: Trial,
    feed: Feed,
    query: Content,
    key: Content,
  ): (b: number, h: number, i: number, j: number) => number {
    const { rank } = this.layout;
    const logits = this.experiment.run(
      trial,
      feed,
      this.reader(trial, 'query', query),
      this.reader(trial, 'key', key),
    );
    return (b, h, i, j) =>
      logits.at(indexOf(rank === 4 ? [b, h, i, j] : [b, i, j], logits.dims.slice(-rank)));
  }

  /** Elements of query or key by index, in the graph's own order of axes. */
  private reader(trial: Trial, role: 'query' | 'key', content: Content): (index: number) => number {
    const { dims } = trial.probe(PLAIN).sample(this.experiment[role]);
    const order = this.layout[role];
    return index => {
      const position = coordinates(index, dims);
      const [b, ...rest] = order.map(axis => position[axis]!);
      const [h, n, d] = rest.length === 3 ? rest : [0, ...rest];
      return content(b!, h!, n!, d!);
    };
  }
}

/** What the scores are, in the terms of the operator. */
interface Levels {
  readonly scale: number;
  readonly causal: boolean;
  readonly ranks: readonly number[];
  readonly block: number;
  readonly levelScale: readonly number[];
  readonly divide: 'none' | 'shared';
}

/** Sample sizes, the longest first: long enough to tell every block that the graph's numbers can mean. */
function trialsFor(longest: number, laboratory: Laboratory): readonly Trial[] {
  const long = [2 * longest + 5, longest + 3].map(length => laboratory.longTrial(length));
  return [...long.filter(trial => trial !== null), ...laboratory.trials];
}

/** The largest whole constant behind the scores that may be the length of a block. */
function longestNumber(logits: Value, { graph }: FormContext): number {
  let longest = 2;
  for (const value of ancestors(logits, ({ producer }) => producer?.type !== 'Shape')) {
    const constant = graph.constants.of(value);
    if (constant === null || constant.data.length > MOST_NUMBERS) continue;
    for (const number of Array.from(constant.data)) {
      if (Number.isInteger(number) && number <= MOST_BLOCK && number > longest) longest = number;
    }
  }
  return longest;
}

/** Learns levels, blocks and factors from unit vectors; a string says why there are none. */
function levelsOf(scores: Scores, [trial]: readonly Trial[]): Levels | string {
  const tokens = scores.tokens(trial!);
  if (tokens < 2) return 'it has fewer than two tokens';
  const none = scores.run(
    trial!,
    PLAIN,
    () => 0,
    () => 0,
  );
  const units = Array.from({ length: scores.layout.headDim }, (_, unit) => {
    const content: Content = (_b, _h, _n, d) => Number(d === unit);
    return scores.run(trial!, PLAIN, content, content);
  });
  // Key 0 is visible to every row, causal or not.
  if ([0, tokens - 1].some(row => none(0, 0, row, 0) !== 0)) return 'its scores have a bias or a mask';
  const weight = (unit: number, row: number) => units[unit]!(0, 0, row, 0);
  const dimensions = units.map((_, unit) => ({
    reach: reachOf(row => weight(unit, row) !== 0, tokens),
    near: weight(unit, 0),
    far: weight(unit, tokens - 1),
  }));
  if (dimensions.some(({ reach }) => reach === 0))
    return 'some dimensions of query and key take no part in the scores';

  const ranks: number[] = [];
  const firsts: number[] = [];
  dimensions.forEach(({ reach }, d) => {
    if (d > 0 && reach === dimensions[d - 1]!.reach) ranks.push(ranks.pop()! + 1);
    else {
      firsts.push(d);
      ranks.push(1);
    }
  });
  const reaches = firsts.map(first => dimensions[first]!.reach);
  const levels = ranks.length;
  if (levels === 1) return 'all dimensions count for all tokens';
  if (reaches[0] !== Number.POSITIVE_INFINITY) return 'its first dimensions do not count for all tokens';
  const block = reaches.at(-1)!;
  const halving = reaches.slice(1).every((reach, n) => reach === block * 2 ** (levels - 2 - n));
  if (!halving)
    return `its levels have blocks of ${reaches.slice(1).join(', ')} tokens: not each half of the one before`;
  const shared = dimensions[0]!.near / dimensions[0]!.far;
  const divide = close(shared, 1) ? 'none' : close(shared * levels, 1) ? 'shared' : null;
  if (divide === null)
    return 'far scores and near ones are weighted in another way than by their number of levels';
  const factors = dimensions.map(({ near }) => (divide === 'shared' ? near * levels : near));
  const uneven = ranks.some((rank, l) =>
    factors.slice(firsts[l]!, firsts[l]! + rank).some(factor => !close(factor, factors[firsts[l]!]!)),
  );
  if (uneven) return 'dimensions of one level are weighted differently';
  const scale = factors[0]!;
  return {
    scale,
    causal: none(0, 0, 0, tokens - 1) <= HIDDEN_AT_MOST,
    ranks,
    block,
    levelScale: firsts.map(first => (close(factors[first]!, scale) ? 1 : factors[first]! / scale)),
    divide,
  };
}

const close = (a: number, b: number) => Math.abs(a - b) <= 1e-6 * Math.abs(b);

/** How many rows from the first on `counts` holds for; infinite where it does for all. */
function reachOf(counts: (row: number) => boolean, rows: number): number {
  if (counts(rows - 1)) return Number.POSITIVE_INFINITY;
  let [inside, outside] = [-1, rows - 1];
  while (outside - inside > 1) {
    const middle = (inside + outside) >> 1;
    if (counts(middle)) inside = middle;
    else outside = middle;
  }
  return outside;
}

/** Compares the scores with what the operator computes, on random numbers; null where they agree. */
function difference(scores: Scores, levels: Levels, trials: readonly Trial[]): string | null {
  const ends: number[] = [];
  for (const rank of levels.ranks) ends.push((ends.at(-1) ?? 0) + rank);
  const length = (level: number) =>
    level === 0 ? Number.POSITIVE_INFINITY : levels.block * 2 ** (levels.ranks.length - 1 - level);
  const blockOf = (level: number, n: number) => Math.floor(n / length(level));
  const content =
    (seed: number): Content =>
    (b, h, n, d) =>
      2 * new SeededRandom(((seed * 31 + b) * 31 + h) * 1_000_003 + n * 509 + d).uniform() - 1;
  const [query, key] = [content(1), content(2)];
  for (const [t, trial] of trials.entries()) {
    const tokens = scores.tokens(trial);
    const [batch, heads] = scores.parts(trial);
    const { dims: keyDims } = trial.probe(PLAIN).sample(scores.layout.value.value);
    const share = scores.layout.rank === 4 ? heads / keyDims[1]! : 1;
    const feeds = [PLAIN, OTHER_DATA, drawn(2, [0, 1])];
    const runs = feeds.map(feed => scores.run(trial, feed, query, key));
    const places = placesToCompare(new SeededRandom(t), batch, heads, tokens, levels.block);
    for (const [b, h, i, j] of places) {
      const hidden = levels.causal && j > i;
      let [expected, magnitude, count] = [0, 0, 0];
      for (let level = 0; level < ends.length && blockOf(level, i) === blockOf(level, j); level++) {
        count++;
        for (let d = ends[level - 1] ?? 0; d < ends[level]!; d++) {
          const term = levels.levelScale[level]! * query(b, h, i, d) * key(b, Math.floor(h / share), j, d);
          expected += term;
          magnitude += Math.abs(term);
        }
      }
      const factor = levels.scale / (levels.divide === 'shared' ? count : 1);
      for (const [f, run] of runs.entries()) {
        const actual = run(b, h, i, j);
        const right = hidden
          ? actual <= HIDDEN_AT_MOST
          : Math.abs(actual - factor * expected) <= ROUNDING * Math.abs(factor) * magnitude;
        if (right) continue;
        if (f > 0) return 'its scores depend on something besides query and key, such as a mask';
        return `its scores are not those of levels with blocks of ${levels.block} tokens, as at row ${i} and key ${j}`;
      }
    }
  }
  return null;
}

/** Pairs of tokens: random ones, and those beside the ends of blocks. */
function placesToCompare(
  random: SeededRandom,
  batch: number,
  heads: number,
  tokens: number,
  block: number,
): (readonly [number, number, number, number])[] {
  const beside = () => {
    const end = block * (1 + random.below(Math.max(1, Math.floor(tokens / block))));
    return Math.min(tokens - 1, end - random.below(2));
  };
  const token = () => (random.uniform() < 0.5 ? random.below(tokens) : beside());
  return Array.from({ length: COMPARISONS }, () => [
    random.below(batch),
    random.below(heads),
    token(),
    token(),
  ]);
}

function fusionOf(
  anchor: Node,
  softmax: Node,
  operands: { readonly query: Value | null; readonly key: Value | null },
  layout: Layout,
  levels: Levels,
): Fusion {
  const [query, key] = [operands.query!, operands.key!];
  const output = anchor.outputs[0]!;
  const behind = ancestors(output, value => value !== query && value !== key);
  const computed = new Set([...descendants(query), ...descendants(key)]);
  const inside = [...behind].filter(value => computed.has(value) && value !== query && value !== key);
  const weights = ancestors(output, value => value !== softmax.outputs[0]);
  const nodes = new Set(inside.map(({ producer }) => producer!));
  const { rank, headDim } = layout;
  const moves = (order: readonly number[]): Move[] => {
    const sorted = order.every((axis, n) => axis === n);
    return [
      ...(sorted ? [] : [{ transpose: order }]),
      ...(rank === 4 ? [] : [{ reshape: [0, 1, -1, headDim] }]),
    ];
  };
  const { scale, causal, ranks, block, levelScale, divide } = levels;
  return {
    computation: 'multi-level',
    operands: {
      query: { value: query, moves: moves(layout.query) },
      key: { value: key, moves: moves(layout.key) },
      value: layout.value,
    },
    output: { ...layout.output, axes: { batch: 0, sequence: rank - 2 } },
    parameters: { scale, causal: Number(causal), ranks, block, level_scale: levelScale, divide },
    causal,
    keyMask: null,
    emptyRow: 'never',
    kind: 'self',
    heads: { queryHeads: layout.heads, kvHeads: layout.heads, headDim, scale },
    named: anchor,
    interior: inside
      .filter(value => value !== output)
      .map(value => ({
        value,
        holds: weights.has(value) ? 'attention probabilities' : 'attention scores',
      })),
    nodes,
    refusals: [],
  };
}

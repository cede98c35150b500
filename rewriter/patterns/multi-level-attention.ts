import { SeededRandom } from '../../custom-ops/seeded-random.js';
import type { Graph } from '../graph/graph.js';
import type { Node } from '../graph/node.js';
import { ancestors, descendants } from '../graph/slices.js';
import type { Value } from '../graph/value.js';
import { hidesLaterKeys } from '../masks/causal.js';
import { ComputedLogits } from '../masks/computed-logits.js';
import type { MaskFacts } from '../masks/facts.js';
import { type Extent, HIDDEN_AT_MOST } from '../masks/logits.js';
import { Experiment } from '../match/experiment.js';
import type { Match } from '../match/matcher.js';
import { PRODUCTS, type Product, productOf } from '../match/product.js';
import { DataType } from '../onnx/spec.js';
import { drawn, type Feed, uniform } from '../probe/feed.js';
import { type Laboratory, OTHER_DATA, PLAIN, type Trial } from '../probe/laboratory.js';
import { coordinates, indexOf } from '../probe/sample.js';
import type { Move } from '../site.js';
import { inverse, transposed } from './moves.js';
import type { FormContext, Fusion, Miss, MovedValue, SourceForm } from './source-form.js';
import { emptyRowOf, maskProblem, sumLayout, sumOfProducts } from './weighted-sum.js';

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
const ROUNDING = { float32: 1e-5, float16: 5e-3 } as const;

function recognize(anchor: Node, context: FormContext): Fusion | Miss {
  const { laboratory } = context;
  const output = anchor.outputs[0]!;
  const far = (reason: string): Miss => ({ node: anchor, reason, near: false, nodes: [] });
  const attention = sumOfProducts(anchor, context);
  if (typeof attention === 'string') return far(attention);
  const { found, sum, logits, products } = attention;
  if (products.length < 2) return far('one product of query and key');
  if (products.some(node => productOf(node) === null)) return far('a product of something else');
  const operands = { query: commonSource(products, 'left'), key: commonSource(products, 'right') };
  if (operands.query === null || operands.key === null || operands.query === operands.key) {
    return far('its products have no query and key in common');
  }

  const miss = (reason: string): Miss => ({ node: anchor, reason, near: true, nodes: found.matched });
  const rounding = ROUNDING[typeOf(logits, laboratory) === DataType.FLOAT16 ? 'float16' : 'float32'];
  const formula = { query: operands.query, key: operands.key, logits };
  const places = layoutsOf(operands.query, operands.key, output, sum, laboratory);
  if (places.length === 0) return miss('the axes of query, key, value and output are not those of heads');
  const trials = trialsFor(longestNumber(logits, context), laboratory);
  const problems: string[] = [];
  for (const layout of places) {
    const scores = new Scores(formula, layout, rounding);
    const mask = maskOf(scores, anchor.graph, context);
    const levels = typeof mask === 'string' ? mask : levelsOf(scores, mask, trials);
    if (typeof mask === 'string' || typeof levels === 'string') {
      problems.push(typeof mask === 'string' ? mask : `${levels}`);
      continue;
    }
    const problem = difference(scores, levels, mask, trials);
    if (problem === null) {
      const cached = trials.some(trial => scores.extent(trial).rows < scores.extent(trial).columns);
      return fusionOf(anchor, found, operands, layout, levels, mask, cached);
    }
    problems.push(problem);
  }
  return miss(problems[0]!);
}

function typeOf(value: Value, { trials }: Laboratory): DataType {
  return trials[0]!.probe(PLAIN).sample(value).dataType;
}

/** Which keys the rows of a site see. */
interface Mask {
  readonly facts: MaskFacts;
  readonly causal: boolean;
  /** What the model is fed so that all keys are present. */
  readonly present: Feed;
  /** The value that the key mask is; null where there is none. */
  readonly keys: Value | null;
}

/** The mask of the scores, or why it is none that the operator takes. */
function maskOf(scores: Scores, graph: Graph, { masks, laboratory }: FormContext): Mask | string {
  const facts = masks.inspect({ logits: scores.logits(), graph, extent: trial => scores.extent(trial) });
  const problem = maskProblem(facts);
  if (problem !== null) return problem;
  const absent = laboratory.feed('uniform 0 0', () => uniform(PLAIN.seed, 0));
  const present = facts.keyMask?.visible === 'zero' ? absent : PLAIN;
  const keys = facts.keyMask && graph.resolve(facts.keyMask.value);
  return { facts, causal: hidesLaterKeys(facts), present, keys };
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
  'Concat',
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
  /** Axes of batch, heads, rows and channels in the output. */
  readonly outputOrder: readonly number[];
  readonly headDim: number;
  /** Null where batch and heads are one axis. */
  readonly heads: number | null;
  readonly kvHeads: number | null;
}

/** Where query and key have batch, heads, sequence and channels; with rank 3, batch and heads are one. */
const ORDERS: Readonly<Record<3 | 4, readonly (readonly number[])[]>> = {
  4: [
    [0, 1, 2, 3],
    [0, 2, 1, 3],
    [0, 1, 3, 2],
  ],
  3: [
    [0, 1, 2],
    [0, 2, 1],
  ],
};

/** Layouts whose sizes agree, of which the scores decide. */
function layoutsOf(
  query: Value,
  key: Value,
  output: Value,
  sum: Product,
  { trials }: Laboratory,
): readonly Layout[] {
  const rank = trials[0]!.probe(PLAIN).sample(output).dims.length;
  const layout = sumLayout(sum, rank);
  if ((rank !== 3 && rank !== 4) || layout === null) return [];
  const dimsOf = (value: Value) => trials.map(trial => trial.probe(PLAIN).sample(value).dims);
  if ([query, key, sum.right].some(value => dimsOf(value)[0]!.length !== rank)) return [];
  const { valueOrder, outputOrder } = layout;
  const ordered = (value: Value, order: readonly number[]) =>
    dimsOf(value).map(dims => order.map(axis => dims[axis]!));
  const outputs = ordered(output, outputOrder);
  const values = ordered(sum.right, valueOrder);
  const agree = (queries: readonly number[][], keys: readonly number[][]) =>
    outputs.every((out, t) => {
      const [q, k, v] = [queries[t]!, keys[t]!, values[t]!];
      const headDim = queries[0]!.at(-1);
      return (
        q.slice(0, -1).every((dim, axis) => dim === out[axis]) &&
        k.slice(0, -1).every((dim, axis) => dim === v[axis]) &&
        v.at(-1) === outputs[0]!.at(-1) &&
        q.at(-2)! <= k.at(-2)! &&
        q.at(-1) === headDim &&
        k.at(-1) === headDim &&
        (rank === 3 || (q[1] === outputs[0]![1] && q[1]! % k[1]! === 0)) &&
        q[0] === k[0]
      );
    });
  const headed = (width: number): Move[] => (rank === 4 ? [] : [{ reshape: [0, 1, -1, width] }]);
  const valueDim = outputs[0]!.at(-1)!;
  const joined: Move[] = rank === 4 ? [] : [{ reshape: [0, -1, valueDim] }];
  return ORDERS[rank].flatMap(queryOrder =>
    ORDERS[rank].flatMap(keyOrder => {
      const queries = ordered(query, queryOrder);
      if (!agree(queries, ordered(key, keyOrder))) return [];
      return [
        {
          rank,
          query: queryOrder,
          key: keyOrder,
          value: { value: sum.right, moves: [...transposed(valueOrder), ...headed(valueDim)] },
          output: { value: output, moves: [...joined, ...transposed(inverse(outputOrder))] },
          outputOrder,
          kvHeads: rank === 4 ? values[0]![1]! : null,
          headDim: queries[0]!.at(-1)!,
          heads: rank === 4 ? outputs[0]![1]! : null,
        },
      ];
    }),
  );
}

/** What a token holds: its element of dimension d, by batch row, head and position. */
type Content = (b: number, h: number, n: number, d: number) => number;

/** The logits of a site for contents of query and key, by batch row, head, row and key. */
class Scores {
  constructor(
    private readonly formula: { readonly query: Value; readonly key: Value; readonly logits: Value },
    readonly layout: Layout,
    /** Rounding of the type that scores are computed in. */
    readonly rounding: number,
  ) {}

  /** Sizes of the score matrix; with rank 3, batch rows and heads are one. */
  extent(trial: Trial): Extent {
    const { outputOrder, output, key, rank } = this.layout;
    const probe = trial.probe(PLAIN);
    const { dims } = probe.sample(output.value);
    const [batch, ...rest] = outputOrder.map(axis => dims[axis]!);
    const columns = probe.sample(this.formula.key).dims[key.at(-2)!]!;
    return { batch: batch!, heads: rank === 4 ? rest[0]! : 1, rows: rest.at(-2)!, columns };
  }

  /** The logits as the mask sees them: of queries and keys that have the first dimension of the head only. */
  logits(): ComputedLogits {
    const { query, key, logits } = this.formula;
    return new ComputedLogits(logits, [query, key], (experiment, product) => {
      const first = (role: 'query' | 'key', value: number) => {
        const dims = experiment.sample(this.formula[role]).dims;
        experiment.set(
          this.formula[role],
          this.reader(dims, role, (_b, _h, _n, d) => (d === 0 ? value : 0)),
        );
      };
      first('query', product);
      first('key', 1);
    });
  }

  run(
    trial: Trial,
    feed: Feed,
    query: Content,
    key: Content,
  ): (b: number, h: number, i: number, j: number) => number {
    const { rank } = this.layout;
    const experiment = new Experiment(trial.probe(feed));
    const dimsOf = (value: Value) => trial.probe(PLAIN).sample(value).dims;
    experiment.set(this.formula.query, this.reader(dimsOf(this.formula.query), 'query', query));
    experiment.set(this.formula.key, this.reader(dimsOf(this.formula.key), 'key', key));
    const logits = experiment.sample(this.formula.logits);
    return (b, h, i, j) =>
      logits.at(indexOf(rank === 4 ? [b, h, i, j] : [b, i, j], logits.dims.slice(-rank)));
  }

  /** Elements of query or key by index, in the graph's own order of axes. */
  private reader(
    dims: readonly number[],
    role: 'query' | 'key',
    content: Content,
  ): (index: number) => number {
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
function levelsOf(scores: Scores, { present }: Mask, [trial]: readonly Trial[]): Levels | string {
  const { rows, columns } = scores.extent(trial!);
  if (columns < 2) return 'it has fewer than two tokens';
  const units = Array.from({ length: scores.layout.headDim }, (_, unit) => {
    const content: Content = (_b, _h, _n, d) => Number(d === unit);
    return scores.run(trial!, present, content, content);
  });
  const offset = columns - rows;
  const dimensions = units.map(logits => {
    const counts = (row: number, key: number) => logits(0, 0, row, key) !== 0;
    // The first key that the first row shares a block with, and the first row beyond that block.
    const first = reachOf(key => !counts(0, key), offset + 1);
    const beyond = reachOf(row => counts(row, first), rows);
    return {
      reach: first > offset ? 0 : offset + beyond - first,
      near: logits(0, 0, 0, offset),
      far: logits(0, 0, rows - 1, 0),
    };
  });
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
  const close = (a: number, b: number) => Math.abs(a - b) <= (scores.rounding / 10) * Math.abs(b);
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
    ranks,
    block,
    levelScale: firsts.map(first => (close(factors[first]!, scale) ? 1 : factors[first]! / scale)),
    divide,
  };
}

/** How many places from the first on `counts` holds for; infinite where it does for all. */
function reachOf(counts: (place: number) => boolean, places: number): number {
  if (counts(places - 1)) return Number.POSITIVE_INFINITY;
  let [inside, outside] = [-1, places - 1];
  while (outside - inside > 1) {
    const middle = (inside + outside) >> 1;
    if (counts(middle)) inside = middle;
    else outside = middle;
  }
  return outside;
}

/** Compares the scores with what the operator computes, on random numbers; null where they agree. */
function difference(scores: Scores, levels: Levels, mask: Mask, trials: readonly Trial[]): string | null {
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
    const extent = scores.extent(trial);
    const offset = extent.columns - extent.rows;
    const { kvHeads } = scores.layout;
    const share = kvHeads === null ? 1 : extent.heads / kvHeads;
    const feeds = [mask.present, OTHER_DATA, drawn(2, [0, 1])];
    const runs = feeds.map(feed => ({
      logit: scores.run(trial, feed, query, key),
      hidden: hiddenKeys(mask, trial, feed, extent),
    }));
    const places = placesToCompare(new SeededRandom(t), extent, levels.block);
    for (const [b, h, i, j] of places) {
      const position = i + offset;
      let [expected, magnitude, count] = [0, 0, 0];
      for (let level = 0; level < ends.length && blockOf(level, position) === blockOf(level, j); level++) {
        count++;
        for (let d = ends[level - 1] ?? 0; d < ends[level]!; d++) {
          const term = levels.levelScale[level]! * query(b, h, i, d) * key(b, Math.floor(h / share), j, d);
          expected += term;
          magnitude += Math.abs(term);
        }
      }
      const factor = levels.scale / (levels.divide === 'shared' ? count : 1);
      for (const [f, { logit, hidden }] of runs.entries()) {
        const actual = logit(b, h, i, j);
        const right =
          (mask.causal && j > position) || hidden(b, j)
            ? actual <= HIDDEN_AT_MOST + Math.abs(factor) * magnitude
            : Math.abs(actual - factor * expected) <= scores.rounding * Math.abs(factor) * magnitude;
        if (right) continue;
        if (f > 0) return 'its scores depend on something besides query and key, such as a mask';
        return `its scores are not those of levels with blocks of ${levels.block} tokens, as at row ${i} and key ${j}`;
      }
    }
  }
  return null;
}

/** Whether the key mask hides a key of a batch row. */
function hiddenKeys(
  { facts: { keyMask }, keys }: Mask,
  trial: Trial,
  feed: Feed,
  { columns }: Extent,
): (b: number, j: number) => boolean {
  if (keyMask === null || keys === null) return () => false;
  const { at } = trial.probe(feed).sample(keys);
  return (b, j) => (at(b * columns + j) === 0) === (keyMask.visible === 'nonzero');
}

/** Pairs of tokens: random ones, and those beside the ends of blocks. */
function placesToCompare(
  random: SeededRandom,
  { batch, heads, rows, columns }: Extent,
  block: number,
): (readonly [number, number, number, number])[] {
  /** Of `count` tokens from position `start` on, one at random or one beside the end of a block. */
  const token = (start: number, count: number) => {
    if (random.uniform() < 0.5) return random.below(count);
    const end = block * (1 + random.below(Math.max(1, Math.floor((start + count) / block))));
    return Math.max(0, Math.min(count - 1, end - random.below(2) - start));
  };
  return Array.from({ length: COMPARISONS }, () => [
    random.below(batch),
    random.below(heads),
    token(columns - rows, rows),
    token(0, columns),
  ]);
}

function fusionOf(
  anchor: Node,
  found: Match,
  operands: { readonly query: Value | null; readonly key: Value | null },
  layout: Layout,
  levels: Levels,
  { facts, causal }: Mask,
  cached: boolean,
): Fusion {
  const [query, key] = [operands.query!, operands.key!];
  const output = anchor.outputs[0]!;
  const behind = ancestors(output, value => value !== query && value !== key);
  const computed = new Set([...descendants(query), ...descendants(key)]);
  const inside = [...behind].filter(value => computed.has(value) && value !== query && value !== key);
  const softmax = found.nodes.get('softmax')!;
  const weights = ancestors(output, value => value !== softmax.outputs[0]);
  const nodes = new Set(inside.map(({ producer }) => producer!));
  const { rank, headDim } = layout;
  const moves = (order: readonly number[]): Move[] => [
    ...transposed(order),
    ...(rank === 4 ? [] : [{ reshape: [0, 1, -1, headDim] }]),
  ];
  const { scale, ranks, block, levelScale, divide } = levels;
  return {
    computation: 'multi-level',
    operands: {
      query: { value: query, moves: moves(layout.query) },
      key: { value: key, moves: moves(layout.key) },
      value: layout.value,
    },
    output: {
      ...layout.output,
      axes: { batch: layout.outputOrder[0]!, sequence: layout.outputOrder.at(-2)! },
    },
    parameters: { scale, causal: Number(causal), ranks, block, level_scale: levelScale, divide },
    causal,
    keyMask: facts.keyMask,
    emptyRow: emptyRowOf(facts, found),
    kind: cached ? 'cached' : 'self',
    heads: { queryHeads: layout.heads, kvHeads: layout.kvHeads, headDim, scale },
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

import { DataType, type FunctionSpec } from '../../rewriter/onnx/spec.js';
import { GraphBuilder, type Value } from '../graph-builder.js';
import { type BodyContext, DOMAIN } from '../operator.js';
import { coefficients, type ElementwiseParameters, EMPTY_OFFSET, orderProblem } from './parameters.js';

export const OP_TYPE = 'ElementwiseAttention';

/** Inputs of the operator, in order. */
export const INPUT_NAMES = ['query', 'key', 'value', 'key_mask', 'past_state', 'past_offset'] as const;

/** Outputs of the operator, in order. */
export const OUTPUT_NAMES = ['output', 'present_state', 'present_offset'] as const;

/** Rows whose sums exist at once under causality. */
const CHUNK_ROWS = 256;
/** Pairs of a row and a key, channel by channel, that exist at once for order 0. */
const MOST_PAIRS = 2 ** 21;
/** Weights up to exp of this leave float32 room for sums of powers. */
const SAFE_EXPONENT = 40;

/** Above it, |k| stands for a key that nobody sees. */
const HIDDEN_ABOVE = EMPTY_OFFSET / 10;

/** What the operator is given, in float32. */
interface Given {
  readonly query: Value;
  readonly key: Value;
  readonly value: Value;
  readonly mask: Value | null;
}

/** Keys of a stretch of tokens, all [B,n,X] in float32; hidden ones are EMPTY_OFFSET, with a value of 0. */
interface Tokens {
  readonly key: Value;
  readonly magnitude: Value;
  readonly value: Value;
}

/** Sums S_0 ... S_t, Z_0 ... Z_t of n rows or of one, [B,n,X] each, times exp(offset^2), offset [B,n,X] or [B,1,X]. */
interface Sums {
  readonly sums: readonly Value[];
  readonly offset: Value;
}

/**
 * The operator in standard ONNX operators. Taylor orders take time and memory linear in the length: chunks of
 * {@link CHUNK_ROWS} rows, with the sums so far carried along and, under causality, prefix sums in each. Order 0 takes as many rows at a time as fit {@link MOST_PAIRS}.
 * @param connected names of the inputs, and of the optional outputs, that the node connects: a body has no
 *   output after the last that its node has
 * @throws RangeError for an order that there is no operator of
 */
export function elementwiseFunctionBody(
  parameters: ElementwiseParameters,
  connected: readonly string[],
  { opset, elementType }: BodyContext,
): FunctionSpec {
  const problem = orderProblem(parameters.order);
  if (problem !== null) throw new RangeError(problem);
  const lastOf = (names: readonly string[]) => names.findLastIndex(name => connected.includes(name)) + 1;
  const inputs = INPUT_NAMES.slice(0, lastOf(INPUT_NAMES));
  const outputs = OUTPUT_NAMES.slice(0, Math.max(1, lastOf(OUTPUT_NAMES)));
  const b = new GraphBuilder(opset);
  // The element type is the node's: UNDEFINED stands for it until the cast.
  const input = (name: (typeof INPUT_NAMES)[number], type = DataType.UNDEFINED): Value | null =>
    connected.includes(name) ? { name, type } : null;
  const given = input('query')!;
  const widened = (name: 'query' | 'key' | 'value') => b.cast(input(name)!, DataType.FLOAT);
  const tensors: Given = {
    query: widened('query'),
    key: widened('key'),
    value: widened('value'),
    mask: input('key_mask', DataType.BOOL),
  };
  const { query } = tensors;
  const { order, causal } = parameters;
  const past = () =>
    pastSums(b, input('past_state', DataType.FLOAT), input('past_offset', DataType.FLOAT), query, order);
  const result =
    order === 0
      ? { output: exactForm(b, tensors, causal), present: null }
      : causal
        ? causalSeries(b, tensors, past())
        : series(b, tensors, past(), order);
  const narrow = (x: Value) => b.castLike(x, given, elementType);
  b.output(narrow(result.output), 'output');
  if (result.present !== null && outputs.length > 1) {
    const { sums, offset } = result.present;
    const [batch, channels] = [b.dim(query, 0), b.dim(query, 2)];
    b.output(b.reshape(b.concat(sums, 1), [batch, 2, order + 1, channels]), 'present_state');
    if (outputs.length > 2) b.output(b.reshape(offset, [batch, channels]), 'present_offset');
  }
  return { domain: DOMAIN, name: OP_TYPE, inputs, outputs, opsetImports: { '': opset }, nodes: b.nodes };
}

/** The state that earlier tokens left, empty where the node connects none. */
function pastSums(
  b: GraphBuilder,
  state: Value | null,
  offset: Value | null,
  query: Value,
  order: number,
): Sums {
  const count = 2 * (order + 1);
  const dims = [b.dim(query, 0), 1, b.dim(query, 2)];
  if (state === null || offset === null) {
    const zeros = b.full(dims, 0, DataType.FLOAT);
    return { sums: new Array<Value>(count).fill(zeros), offset: b.full(dims, EMPTY_OFFSET, DataType.FLOAT) };
  }
  const rows = b.reshape(state, [dims[0]!, count, dims[2]!]);
  return {
    sums: Array.from({ length: count }, (_, n) => b.slice(rows, 1, n, n + 1)),
    offset: b.min(b.reshape(offset, dims), EMPTY_OFFSET),
  };
}

/** Keys and values, those out that the mask hides. */
function tokensOf(b: GraphBuilder, key: Value, value: Value, mask: Value | null): Tokens {
  if (mask === null) return { key, magnitude: b.abs(key), value };
  const visible = b.unsqueeze(mask, 2);
  const seen = b.where(visible, key, EMPTY_OFFSET);
  return { key: seen, magnitude: b.abs(seen), value: b.where(visible, value, 0) };
}

/** exp(a^2 - b^2), without squares that would swallow the difference. */
function ratio(b: GraphBuilder, a: Value, other: Value): Value {
  return b.exp(b.mul(b.sub(a, other), b.add(a, other)));
}

/** Weights [B,n,X] of tokens under an offset: 0 for hidden ones, even where no key has been seen. */
function weights(b: GraphBuilder, { magnitude }: Tokens, offset: Value): Value {
  return ratio(b, b.min(offset, HIDDEN_ABOVE), magnitude);
}

/** What tokens of such weights add to each of the sums, put together by `sum`. */
function termsBy(
  { key, value }: Tokens,
  b: GraphBuilder,
  weight: Value,
  order: number,
  sum: (term: Value) => Value,
): Value[] {
  const powers = [weight];
  for (let n = 1; n <= order; n++) powers.push(b.mul(powers[n - 1]!, key));
  return [...powers.map(power => sum(b.mul(power, value))), ...powers.map(sum)];
}

/** Sums under another offset. */
function moved(b: GraphBuilder, { sums, offset }: Sums, to: Value): Value[] {
  const gain = ratio(b, to, offset);
  return sums.map(sum => b.mul(sum, gain));
}

/**
 * Means [B,n,X] of the values, by Horner's rule: ((s_t f_t + s_{t-1}) f_{t-1} + ...) f_1 + s_0.
 * @param factor f_n
 * @param everSeen whether every row has seen a key; those that have not give zeros
 */
function means(
  b: GraphBuilder,
  sums: readonly Value[],
  factor: (n: number) => Value,
  everSeen: boolean,
): Value {
  const order = sums.length / 2 - 1;
  const denominators = sums.slice(order + 1);
  if (!everSeen) denominators[0] = b.where(b.greater(denominators[0]!, 0), denominators[0]!, 1);
  let [numerator, denominator] = [sums[order]!, denominators[order]!];
  for (let n = order; n > 0; n--) {
    const f = factor(n);
    numerator = b.add(b.mul(numerator, f), sums[n - 1]!);
    denominator = b.add(b.mul(denominator, f), denominators[n - 1]!);
  }
  return b.div(numerator, denominator);
}

/** A chunk of a tensor [B,n,...], filled up to CHUNK_ROWS rows. */
type Chunk = (x: Value, rank: 2 | 3, missing: number) => Value;

/** The keys of a chunk; those that fill it up are hidden. */
function tokensIn(b: GraphBuilder, chunk: Chunk, { key, value, mask }: Given): Tokens {
  const visible = mask === null ? null : b.cast(chunk(b.indicator(mask), 2, 0), DataType.BOOL);
  return tokensOf(b, chunk(key, 3, EMPTY_OFFSET), chunk(value, 3, 0), visible);
}

/**
 * `length` rows chunk by chunk: what is in between stays in a cache. `body` gets the state and returns the next one, and
 * rows [B,CHUNK_ROWS,X] of the result.
 */
function byChunks(
  b: GraphBuilder,
  length: Value,
  state: readonly Value[],
  body: (
    inner: GraphBuilder,
    chunk: Chunk,
    state: readonly Value[],
  ) => { readonly state: readonly Value[]; readonly rows?: Value },
): { readonly state: readonly Value[]; readonly rows: Value | null } {
  const chunks = b.ceilDiv(b.max(length, 1), CHUNK_ROWS);
  const result = b.loop(chunks, state, (inner, iteration, carried) => {
    const first = inner.mul(iteration, CHUNK_ROWS);
    const chunk: Chunk = (x, rank, missing) => {
      const part = inner.slice(x, 1, first, inner.add(first, CHUNK_ROWS));
      return inner.pad(part, rank, 1, 0, inner.sub(CHUNK_ROWS, inner.dim(part, 1)), missing);
    };
    const { state: next, rows } = body(inner, chunk, carried);
    return { state: next, stacked: rows === undefined ? [] : [rows] };
  });
  const [stacked] = result.stacked;
  if (stacked === undefined) return { state: result.state, rows: null };
  const dims = [b.dim(stacked, 1), b.mul(chunks, CHUNK_ROWS), b.dim(stacked, 3)];
  const joined = b.reshape(b.transpose(stacked, [1, 0, 2, 3]), dims);
  return { state: result.state, rows: b.slice(joined, 1, 0, length) };
}

/** Sums in one list, the offset last. */
const listOf = ({ sums, offset }: Sums): readonly Value[] => [...sums, offset];
const sumsOf = (list: readonly Value[]): Sums => ({ sums: list.slice(0, -1), offset: list.at(-1)! });

/** All keys for every row. */
function series(b: GraphBuilder, given: Given, past: Sums, order: number) {
  const { query, key } = given;
  const { state } = byChunks(b, b.dim(key, 1), listOf(past), (inner, chunk, carried) => {
    const tokens = tokensIn(inner, chunk, given);
    const before = sumsOf(carried);
    const offset = inner.min(before.offset, inner.reduceMin(tokens.magnitude, 1));
    const earlier = moved(inner, before, offset);
    const added = termsBy(tokens, inner, weights(inner, tokens, offset), order, term =>
      inner.reduceSum(term, 1),
    );
    return { state: listOf({ sums: added.map((sum, n) => inner.add(sum, earlier[n]!)), offset }) };
  });
  const present = sumsOf(state);
  const factors = [...coefficients(order), ...coefficients(order)];
  const scaled = present.sums.map((sum, n) => b.mul(sum, factors[n]!));
  const { rows } = byChunks(b, b.dim(query, 1), [], (inner, chunk) => {
    const queries = chunk(query, 3, 0);
    return { state: [], rows: means(inner, scaled, () => queries, false) };
  });
  return { output: rows!, present };
}

/** For every row the keys up to it. */
function causalSeries(b: GraphBuilder, given: Given, past: Sums) {
  const { query, mask } = given;
  const { state, rows } = byChunks(b, b.dim(query, 1), listOf(past), (inner, chunk, carried) => {
    const tokens = tokensIn(inner, chunk, given);
    const { mean, last } = throughChunk(inner, tokens, sumsOf(carried), chunk(query, 3, 0), mask === null);
    return { state: listOf(last), rows: mean };
  });
  return { output: rows!, present: sumsOf(state) };
}

/**
 * Means of the rows of a chunk, and the sums after it. As long as no later key is so much smaller that its weight
 * would overflow, all rows share the offset of the first row, which is nothing that later tokens change, and prefix
 * sums do; else rows are joined pairwise, each pair under the smaller offset, at distances 1, 2, 4 and so on.
 */
function throughChunk(b: GraphBuilder, tokens: Tokens, past: Sums, query: Value, everSeen: boolean) {
  const order = past.sums.length / 2 - 1;
  const first = b.min(past.offset, b.slice(tokens.magnitude, 1, 0, 1));
  const least = b.min(past.offset, b.reduceMin(tokens.magnitude, 1));
  const spread = b.mul(b.sub(first, least), b.add(first, least));
  const meansOf = (inner: GraphBuilder, sums: readonly Value[]) =>
    means(inner, sums, n => (n === 2 ? query : inner.mul(query, 2 / n)), everSeen);
  const lastOf = (inner: GraphBuilder, x: Value) => inner.slice(x, 1, CHUNK_ROWS - 1, CHUNK_ROWS);
  const [mean, ...last] = b.ifElse(
    b.less(b.maxOfAll(spread), SAFE_EXPONENT),
    inner => {
      const before = moved(inner, past, first);
      const prefix = termsBy(tokens, inner, weights(inner, tokens, first), order, term =>
        inner.cumSum(term, 1),
      );
      const sums = prefix.map((sum, n) => inner.add(sum, before[n]!));
      const end = { sums: sums.map(sum => lastOf(inner, sum)), offset: first };
      return [meansOf(inner, sums), ...moved(inner, end, least)];
    },
    inner => {
      const joined = (one: Sums, other: Sums): Sums => {
        const offset = inner.min(one.offset, other.offset);
        const earlier = moved(inner, other, offset);
        return { sums: moved(inner, one, offset).map((sum, n) => inner.add(sum, earlier[n]!)), offset };
      };
      const weight = inner.indicator(inner.less(tokens.magnitude, HIDDEN_ABOVE));
      let rows: Sums = {
        sums: termsBy(tokens, inner, weight, order, term => term),
        offset: tokens.magnitude,
      };
      for (let distance = 1; distance < CHUNK_ROWS; distance *= 2) {
        const earlier = (x: Value, fill: number) => inner.pad(x, 3, 1, distance, -distance, fill);
        rows = joined(rows, {
          sums: rows.sums.map(sum => earlier(sum, 0)),
          offset: earlier(rows.offset, EMPTY_OFFSET),
        });
      }
      const { sums } = joined(rows, past);
      return [meansOf(inner, sums), ...sums.map(sum => lastOf(inner, sum))];
    },
  );
  return { mean: mean!, last: { sums: last, offset: least } };
}

/** The exponential itself: rows by all keys, a few rows at a time. */
function exactForm(b: GraphBuilder, { query, key, value, mask }: Given, causal: boolean): Value {
  const [batch, rows, channels] = [b.dim(query, 0), b.dim(query, 1), b.dim(query, 2)];
  const keys = b.max(b.dim(key, 1), 1);
  const missing = b.sub(keys, b.dim(key, 1));
  const padded = (x: Value, rank: number, fill: number) => b.pad(x, rank, 1, 0, missing, fill);
  const seen = mask === null ? null : b.cast(padded(b.indicator(mask), 2, 0), DataType.BOOL);
  const tokens = tokensOf(b, padded(key, 3, EMPTY_OFFSET), padded(value, 3, 0), seen);
  const pairsOfRow = b.max(b.mul(b.mul(batch, keys), channels), 1);
  const length = b.max(b.min(b.div(b.ints([MOST_PAIRS]), pairsOfRow), rows), 1);
  const chunks = b.ceilDiv(b.max(rows, 1), length);
  const total = b.mul(chunks, length);
  const queries = b.unsqueeze(b.pad(query, 3, 1, 0, b.sub(total, rows)), 2);
  const masked = b.greater(tokens.magnitude, HIDDEN_ABOVE);
  const [keyRow, valueRow, maskedRow] = [tokens.key, tokens.value, masked].map(x => b.unsqueeze(x, 1));
  const position = b.range(keys);
  const { stacked } = b.loop(chunks, [], (inner, iteration) => {
    const first = inner.mul(iteration, length);
    const chunk = inner.slice(queries, 1, first, inner.add(first, length));
    const later = () =>
      inner.greater(inner.unsqueeze(position, 0), inner.unsqueeze(inner.add(inner.range(length), first), 1));
    const hidden = causal
      ? inner.node('Or', [maskedRow!, inner.unsqueeze(later(), 0, 3)], DataType.BOOL)
      : maskedRow!;
    const distance = inner.where(hidden, EMPTY_OFFSET, inner.abs(inner.sub(chunk, keyRow!)));
    const nearest = inner.reduceMin(distance, 2);
    const weight = inner.where(hidden, 0, ratio(inner, nearest, distance));
    const denominator = inner.reduceSum(weight, 2);
    const seen = inner.greater(denominator, 0);
    const numerator = inner.reduceSum(inner.mul(weight, valueRow!), 2);
    const mean = inner.where(seen, inner.div(numerator, inner.where(seen, denominator, 1)), 0);
    return { state: [], stacked: [inner.squeeze(mean, 2)] };
  });
  const output = b.reshape(b.transpose(stacked[0]!, [1, 0, 2, 3]), [batch, total, channels]);
  return b.slice(output, 1, 0, rows);
}

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

/** Keys of a stretch of tokens, all [B,n,X] in float32; hidden ones have magnitude EMPTY_OFFSET. */
interface Tokens {
  /** 0 where hidden. */
  readonly key: Value;
  readonly magnitude: Value;
  readonly hidden: Value;
  /** 0 where hidden. */
  readonly value: Value;
}

/** Sums S_0 ... S_t, Z_0 ... Z_t, [B,2(t+1),n,X], of n rows or of one, times exp(offset^2), offset [B,1,1,X]. */
interface Sums {
  readonly sums: Value;
  readonly offset: Value;
}

/**
 * The operator in standard ONNX operators. Taylor orders take time and memory linear in the length: one pass
 * over all keys or, under causality, prefix sums over chunks of {@link CHUNK_ROWS} rows with the sums so far
 * carried along. Order 0 takes as many rows at a time as fit {@link MOST_PAIRS}.
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
  const [query, key, value] = [widened('query'), widened('key'), widened('value')];
  const mask = input('key_mask', DataType.BOOL);
  const past = pastSums(b, input('past_state', DataType.FLOAT), input('past_offset', DataType.FLOAT));

  const result =
    parameters.order === 0
      ? { output: exactForm(b, query, key, value, mask, parameters.causal), present: null }
      : parameters.causal
        ? causalSeries(b, query, key, value, mask, past, parameters.order)
        : series(b, query, tokensOf(b, key, value, mask, b.max(b.dim(key, 1), 1)), past, parameters.order);
  const narrow = (x: Value) => b.castLike(x, given, elementType);
  b.output(narrow(result.output), 'output');
  if (result.present !== null && outputs.length > 1) {
    const { sums, offset } = result.present;
    const [batch, channels] = [b.dim(query, 0), b.dim(query, 2)];
    b.output(b.reshape(sums, [batch, 2, parameters.order + 1, channels]), 'present_state');
    if (outputs.length > 2) b.output(b.reshape(offset, [batch, channels]), 'present_offset');
  }
  return { domain: DOMAIN, name: OP_TYPE, inputs, outputs, opsetImports: { '': opset }, nodes: b.nodes };
}

/** The state that earlier tokens left; null where the node connects none. */
function pastSums(b: GraphBuilder, state: Value | null, offset: Value | null): Sums | null {
  if (state === null || offset === null) return null;
  const [batch, channels] = [b.dim(state, 0), b.dim(state, 3)];
  return {
    sums: b.reshape(state, [batch, -1, 1, channels]),
    offset: b.min(b.reshape(offset, [batch, 1, 1, channels]), EMPTY_OFFSET),
  };
}

/** Keys and values of `length` tokens, hidden ones at the end where there are fewer. */
function tokensOf(b: GraphBuilder, key: Value, value: Value, mask: Value | null, length: Value): Tokens {
  const missing = b.sub(length, b.dim(key, 1));
  const seen = mask === null ? key : b.where(b.unsqueeze(mask, 2), key, EMPTY_OFFSET);
  const padded = b.pad(seen, 3, 1, 0, missing, EMPTY_OFFSET);
  const magnitude = b.abs(padded);
  const hidden = b.greater(magnitude, HIDDEN_ABOVE);
  const paddedValue = b.pad(value, 3, 1, 0, missing);
  return {
    key: b.where(hidden, 0, padded),
    magnitude,
    hidden,
    value: mask === null ? paddedValue : b.where(hidden, 0, paddedValue),
  };
}

/** exp(a^2 - b^2), without squares that would swallow the difference. */
function ratio(b: GraphBuilder, a: Value, other: Value): Value {
  return b.exp(b.mul(b.sub(a, other), b.add(a, other)));
}

/** What each token adds to the sums, [B,2(t+1),n,X], given its weight [B,n,X]. */
function terms(b: GraphBuilder, { key, value }: Tokens, weight: Value, order: number): Value {
  const powers = [weight];
  for (let n = 1; n <= order; n++) powers.push(b.mul(powers[n - 1]!, key));
  const denominators = b.concat(
    powers.map(power => b.unsqueeze(power, 1)),
    1,
  );
  return b.concat([b.mul(denominators, b.unsqueeze(value, 1)), denominators], 1);
}

/** Means [B,n,X] of the values for queries [B,n,X]; zeros where no key was summed. */
function means(b: GraphBuilder, sums: Value, query: Value, order: number): Value {
  const queries = b.unsqueeze(query, 1);
  const factors = coefficients(order);
  const sum = (n: number) => b.slice(sums, 1, n, n + 1);
  const polynomial = (first: number) => {
    let total = b.mul(sum(first + order), factors[order]!);
    for (let n = order - 1; n >= 0; n--) {
      total = b.add(b.mul(total, queries), b.mul(sum(first + n), factors[n]!));
    }
    return total;
  };
  const seen = b.greater(sum(order + 1), 0);
  return b.squeeze(b.where(seen, b.div(polynomial(0), b.where(seen, polynomial(order + 1), 1)), 0), 1);
}

/** All keys for every row. */
function series(b: GraphBuilder, query: Value, tokens: Tokens, past: Sums | null, order: number) {
  const least = b.unsqueeze(b.reduceMin(tokens.magnitude, 1), 1);
  const offset = past === null ? least : b.min(least, past.offset);
  const weight = b.where(tokens.hidden, 0, ratio(b, b.squeeze(offset, 1), tokens.magnitude));
  const added = b.reduceSum(terms(b, tokens, weight, order), 2);
  const sums = past === null ? added : b.add(added, b.mul(past.sums, ratio(b, offset, past.offset)));
  return { output: means(b, sums, query, order), present: { sums, offset } };
}

/** For every row the keys up to it. */
function causalSeries(
  b: GraphBuilder,
  query: Value,
  key: Value,
  value: Value,
  mask: Value | null,
  past: Sums | null,
  order: number,
) {
  const [batch, rows, channels] = [b.dim(query, 0), b.dim(query, 1), b.dim(query, 2)];
  const chunks = b.ceilDiv(b.max(rows, 1), CHUNK_ROWS);
  const length = b.mul(chunks, CHUNK_ROWS);
  const all = tokensOf(b, key, value, mask, length);
  const queries = b.pad(query, 3, 1, 0, b.sub(length, rows));
  const start: Sums = past ?? {
    sums: b.full([batch, 2 * (order + 1), 1, channels], 0, DataType.FLOAT),
    offset: b.full([batch, 1, 1, channels], EMPTY_OFFSET, DataType.FLOAT),
  };
  const { state, stacked } = b.loop(
    chunks,
    [start.sums, start.offset],
    (inner, iteration, [sums, offset]) => {
      const first = inner.mul(iteration, CHUNK_ROWS);
      const chunk = (x: Value) => inner.slice(x, 1, first, inner.add(first, CHUNK_ROWS));
      const tokens: Tokens = {
        key: chunk(all.key),
        magnitude: chunk(all.magnitude),
        hidden: chunk(all.hidden),
        value: chunk(all.value),
      };
      const prefix = prefixSums(inner, tokens, { sums: sums!, offset: offset! }, order);
      const last = inner.slice(prefix.sums, 2, CHUNK_ROWS - 1, CHUNK_ROWS);
      const least = inner.min(inner.unsqueeze(inner.reduceMin(tokens.magnitude, 1), 1), offset!);
      return {
        state: [inner.mul(last, ratio(inner, least, prefix.offset)), least],
        stacked: [means(inner, prefix.sums, chunk(queries), order)],
      };
    },
  );
  const output = b.reshape(b.transpose(stacked[0]!, [1, 0, 2, 3]), [batch, length, channels]);
  return { output: b.slice(output, 1, 0, rows), present: { sums: state[0]!, offset: state[1]! } };
}

/**
 * The sums of each row of a chunk, whose offsets may differ from row to row: `offset` is that of the last row.
 * As long as no later key is so much smaller that its weight would overflow, all rows share the offset of the
 * first row, which is nothing that later tokens change, and prefix sums do; else rows are joined pairwise, each
 * pair under the smaller offset, at distances 1, 2, 4 and so on.
 */
function prefixSums(b: GraphBuilder, tokens: Tokens, past: Sums, order: number): Sums {
  const { magnitude, hidden } = tokens;
  const rowsOf = (x: Value) => b.unsqueeze(x, 1);
  const first = b.min(past.offset, rowsOf(b.slice(magnitude, 1, 0, 1)));
  const least = b.min(past.offset, rowsOf(b.reduceMin(magnitude, 1)));
  const spread = b.mul(b.sub(first, least), b.add(first, least));
  const [sums, offset] = b.ifElse(
    b.less(b.maxOfAll(spread), SAFE_EXPONENT),
    inner => {
      const weight = inner.where(hidden, 0, ratio(inner, inner.squeeze(first, 1), magnitude));
      const prefix = inner.cumSum(terms(inner, tokens, weight, order), 2);
      return [inner.add(prefix, inner.mul(past.sums, ratio(inner, first, past.offset))), first];
    },
    inner => {
      const joined = (one: Sums, other: Sums): Sums => {
        const offset = inner.min(one.offset, other.offset);
        const scaled = (part: Sums) => inner.mul(part.sums, ratio(inner, offset, part.offset));
        return { sums: inner.add(scaled(one), scaled(other)), offset };
      };
      const weight = inner.indicator(inner.not(hidden));
      let rows: Sums = { sums: terms(inner, tokens, weight, order), offset: inner.unsqueeze(magnitude, 1) };
      for (let distance = 1; distance < CHUNK_ROWS; distance *= 2) {
        const earlier = (x: Value, fill: number) => inner.pad(x, 4, 2, distance, -distance, fill);
        rows = joined(rows, { sums: earlier(rows.sums, 0), offset: earlier(rows.offset, EMPTY_OFFSET) });
      }
      const whole = joined(rows, past);
      return [whole.sums, inner.slice(whole.offset, 2, CHUNK_ROWS - 1, CHUNK_ROWS)];
    },
  );
  return { sums: sums!, offset: offset! };
}

/** The exponential itself: rows by all keys, a few rows at a time. */
function exactForm(
  b: GraphBuilder,
  query: Value,
  key: Value,
  value: Value,
  mask: Value | null,
  causal: boolean,
): Value {
  const [batch, rows, channels] = [b.dim(query, 0), b.dim(query, 1), b.dim(query, 2)];
  const keys = b.max(b.dim(key, 1), 1);
  const tokens = tokensOf(b, key, value, mask, keys);
  const pairsOfRow = b.max(b.mul(b.mul(batch, keys), channels), 1);
  const length = b.max(b.min(b.div(b.ints([MOST_PAIRS]), pairsOfRow), rows), 1);
  const chunks = b.ceilDiv(b.max(rows, 1), length);
  const total = b.mul(chunks, length);
  const queries = b.unsqueeze(b.pad(query, 3, 1, 0, b.sub(total, rows)), 2);
  const [keyRow, valueRow, hiddenRow] = [tokens.key, tokens.value, tokens.hidden].map(x => b.unsqueeze(x, 1));
  const position = b.range(keys);
  const { stacked } = b.loop(chunks, [], (inner, iteration) => {
    const first = inner.mul(iteration, length);
    const chunk = inner.slice(queries, 1, first, inner.add(first, length));
    const later = () =>
      inner.greater(inner.unsqueeze(position, 0), inner.unsqueeze(inner.add(inner.range(length), first), 1));
    const hidden = causal
      ? inner.node('Or', [hiddenRow!, inner.unsqueeze(later(), 0, 3)], DataType.BOOL)
      : hiddenRow!;
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

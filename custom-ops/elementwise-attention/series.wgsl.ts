import {
  booleans,
  type FloatType,
  kernel,
  optional,
  storage,
  tensorElements,
  variants,
} from '../runtime/web/wgsl.js';
import { coefficients, EMPTY_OFFSET } from './parameters.js';

/**
 * Taylor orders as a scan over chunks of {@link CHUNK} tokens (README, "Forms"). A state is what the operator
 * calls past_state, followed by past_offset: 2 (order + 1) + 1 rows of one number per channel. A thread owns one
 * channel and keeps its state in variables; states in memory are [batch, count, rows, channels].
 */
export const CHUNK = 32;
/** Chunks in a run: their sums are joined by one thread. */
export const RUN = 32;
/** Rows that one thread of {@link means} writes. */
export const ROWS = 16;

export const stateRows = (order: number): number => 2 * (order + 1) + 1;

const EMPTY = EMPTY_OFFSET.toExponential();

/** WGSL of one channel's state, in variables: statements but for the declarations. */
class ChannelState {
  readonly #sums: readonly string[];
  readonly #powers: readonly number[];

  constructor(private readonly order: number) {
    this.#powers = Array.from({ length: order + 1 }, (_, n) => n);
    this.#sums = ['s', 'z'].flatMap(name => this.#powers.map(n => `${name}_${n}`));
  }

  /** An empty state. */
  get declare(): string {
    return `${this.#sums.map(sum => `var ${sum} = 0.0;`).join('\n')}
var offset = ${EMPTY};`;
  }

  /** `at` is the place of the state's first row. */
  load(states: string, at: string): string {
    return this.#each(at, (name, place) => `${name} = ${states}[${place}];`);
  }

  store(states: string, at: string): string {
    return this.#each(at, (name, place) => `${states}[${place}] = ${name};`);
  }

  /** Adds a key and its value: all sums stay relative to exp(-offset^2), offset being the smallest |key|. */
  absorb(key: string, value: string): string {
    return `{
  let magnitude = abs(${key});
  if (magnitude < offset) {
    let factor = exp((magnitude - offset) * (magnitude + offset));
    offset = magnitude;
    ${this.#sums.map(sum => `${sum} *= factor;`).join(' ')}
  }
  var term = exp((offset - magnitude) * (offset + magnitude));
${this.#powers
  .map(n => `  s_${n} += term * ${value}; z_${n} += term;${n < this.order ? ` term *= ${key};` : ''}`)
  .join('\n')}
}`;
  }

  /** Adds the state that starts at `at`. */
  join(states: string, at: string): string {
    return this.#join(states, at, (sum, place) => `${sum} = ${joined(sum, `${states}[${place}]`)};`);
  }

  /** The same, leaving there what was in the variables before. */
  exchange(states: string, at: string): string {
    return this.#join(
      states,
      at,
      (sum, place) => `{
    let own = ${sum};
    ${sum} = ${joined('own', `${states}[${place}]`)};
    ${states}[${place}] = own;
  }`,
      place => `${states}[${place}] = offset;`,
    );
  }

  /** Expression of a query's output; zero before the first key. */
  mean(query: string): string {
    const polynomial = (name: string) =>
      coefficients(this.order).reduceRight(
        (rest, factor, n) => `(${factor} * ${name}_${n}${rest && ` + ${query} * ${rest}`})`,
        '',
      );
    return `select(0.0, ${polynomial('s')} / ${polynomial('z')}, z_0 > 0.0)`;
  }

  #join(
    states: string,
    at: string,
    combine: (sum: string, place: string) => string,
    before: (offsetPlace: string) => string = () => '',
  ): string {
    const offsetPlace = this.#place(at, this.#sums.length);
    return `{
  let other = ${states}[${offsetPlace}];
  ${before(offsetPlace)}
  let least = min(offset, other);
  let own_factor = exp((least - offset) * (least + offset));
  let other_factor = exp((least - other) * (least + other));
  offset = least;
  ${this.#sums.map((sum, n) => combine(sum, this.#place(at, n))).join('\n  ')}
}`;
  }

  #each(at: string, use: (name: string, place: string) => string): string {
    return [...this.#sums, 'offset'].map((name, n) => use(name, this.#place(at, n))).join('\n');
  }

  #place(at: string, row: number): string {
    return `${at} + ${row}u * params.channels`;
  }
}

const joined = (own: string, other: string): string => `${own} * own_factor + ${other} * other_factor`;

/** A thread per (batch row, index below `units`, channel); `state_at` is where state n of `count` starts. */
const unitParameters = { channels: 'u32', units: 'u32', threads: 'u32' } as const;
const unitOfThread = `let index = group * 256u + thread;
if (index >= params.threads) { return; }
let channel = index % params.channels;
let unit = index / params.channels % params.units;
let batch = index / params.channels / params.units;`;
const stateAt = (order: number) => `fn state_at(batch: u32, n: u32, count: u32, channel: u32) -> u32 {
  return (batch * count + n) * ${stateRows(order)}u * params.channels + channel;
}`;

const tokenParameters = { ...unitParameters, tokens: 'u32' } as const;
const tokenBindings = (type: FloatType, masked: boolean) => ({
  key: tensorElements(type),
  value: tensorElements(type),
  ...optional(masked, 'mask', booleans),
});
/** Reads the key and value of `token`, if it is visible, into the state. */
const absorbToken = (state: ChannelState, masked: boolean) => `${
  masked ? 'if (read_mask(batch * params.tokens + token)) ' : ''
}{
  let at = (batch * params.tokens + token) * params.channels + channel;
  let key_number = read_key(at);
  let value_number = read_value(at);
  ${state.absorb('key_number', 'value_number')}
}`;

/** The state of earlier tokens, or an empty one, [batch, 1, rows, channels]. One thread per (batch row, channel). */
export const begin = variants((order: number, past: boolean) => {
  const sums = stateRows(order) - 1;
  return kernel({
    label: 'earlier sums',
    parameters: unitParameters,
    bindings: {
      carried: storage('read_write', 'f32'),
      ...optional(past, 'past_state', storage('read', 'f32')),
      ...optional(past, 'past_offset', storage('read', 'f32')),
    },
    declarations: stateAt(order),
    body: `${unitOfThread}
let at = state_at(batch, 0u, 1u, channel);
for (var row = 0u; row < ${sums}u; row++) {
  carried[at + row * params.channels] = ${past ? `past_state[(batch * ${sums}u + row) * params.channels + channel]` : '0.0'};
}
carried[at + ${sums}u * params.channels] = ${past ? `min(past_offset[batch * params.channels + channel], ${EMPTY})` : EMPTY};`,
  });
});

/** Sums of each chunk's tokens, [batch, chunks, rows, channels]. One thread per (batch row, chunk, channel). */
export const absorb = variants((order: number, type: FloatType, masked: boolean) => {
  const state = new ChannelState(order);
  return kernel({
    label: 'sums of chunks',
    parameters: tokenParameters,
    bindings: { chunks: storage('read_write', 'f32'), ...tokenBindings(type, masked) },
    declarations: stateAt(order),
    body: `${unitOfThread}
${state.declare}
let end = min((unit + 1u) * ${CHUNK}u, params.tokens);
for (var token = unit * ${CHUNK}u; token < end; token++) {
  ${absorbToken(state, masked)}
}
let at = state_at(batch, unit, params.units, channel);
${state.store('chunks', 'at')}`,
  });
});

/**
 * Joins states in runs of `run`: each of `states` becomes what comes before it in its run, and `totals` gets the
 * whole of every run, [batch, runs, rows, channels]. With `carried`, a run starts with what `totals` has before. One
 * thread per (batch row, run, channel).
 */
export const joinRuns = variants((order: number, carried: boolean) => {
  const state = new ChannelState(order);
  return kernel({
    label: 'joined sums',
    parameters: { ...unitParameters, run: 'u32', count: 'u32' },
    bindings: { states: storage('read_write', 'f32'), totals: storage('read_write', 'f32') },
    declarations: stateAt(order),
    body: `${unitOfThread}
${state.declare}
let total = state_at(batch, unit, params.units, channel);
${carried ? state.load('totals', 'total') : ''}
let end = min((unit + 1u) * params.run, params.count);
for (var n = unit * params.run; n < end; n++) {
  let at = state_at(batch, n, params.count, channel);
  ${state.exchange('states', 'at')}
}
${state.store('totals', 'total')}`,
  });
});

/**
 * Outputs of causal rows: each chunk goes on, row by row, from the sums before it. With `single` there is one
 * chunk, which starts with `carried` and leaves its sums there; otherwise it starts with what comes before its run
 * and before itself in the run. One thread per (batch row, chunk, channel).
 */
export const attend = variants((order: number, type: FloatType, masked: boolean, single: boolean) => {
  const state = new ChannelState(order);
  const start = single
    ? `let at = state_at(batch, 0u, 1u, channel);
${state.load('carried', 'at')}`
    : `let run_at = state_at(batch, unit / ${RUN}u, (params.units + ${RUN - 1}u) / ${RUN}u, channel);
${state.load('runs', 'run_at')}
let chunk_at = state_at(batch, unit, params.units, channel);
${state.join('chunks', 'chunk_at')}`;
  return kernel({
    label: 'causal outputs',
    parameters: tokenParameters,
    bindings: {
      query: tensorElements(type),
      ...tokenBindings(type, masked),
      output: storage('read_write', 'f32'),
      ...optional(single, 'carried', storage('read_write', 'f32')),
      ...optional(!single, 'chunks', storage('read', 'f32')),
      ...optional(!single, 'runs', storage('read', 'f32')),
    },
    declarations: stateAt(order),
    body: `${unitOfThread}
${state.declare}
${start}
let end = min((unit + 1u) * ${CHUNK}u, params.tokens);
for (var token = unit * ${CHUNK}u; token < end; token++) {
  ${absorbToken(state, masked)}
  let place = (batch * params.tokens + token) * params.channels + channel;
  let query_number = read_query(place);
  output[place] = ${state.mean('query_number')};
}
${single ? state.store('carried', 'at') : ''}`,
  });
});

/** Outputs of rows that see all keys. One thread per (batch row, {@link ROWS} rows, channel). */
export const means = variants((order: number, type: FloatType) => {
  const state = new ChannelState(order);
  return kernel({
    label: 'outputs',
    parameters: { ...unitParameters, rows: 'u32' },
    bindings: {
      query: tensorElements(type),
      carried: storage('read', 'f32'),
      output: storage('read_write', 'f32'),
    },
    declarations: stateAt(order),
    body: `${unitOfThread}
${state.declare}
let at = state_at(batch, 0u, 1u, channel);
${state.load('carried', 'at')}
let end = min((unit + 1u) * ${ROWS}u, params.rows);
for (var row = unit * ${ROWS}u; row < end; row++) {
  let place = (batch * params.rows + row) * params.channels + channel;
  let query_number = read_query(place);
  output[place] = ${state.mean('query_number')};
}`,
  });
});

/** Copies rows of the sums out, [batch, units, channels]. One thread per (batch row, row, channel). */
export const present = variants((order: number) =>
  kernel({
    label: 'sums for later tokens',
    parameters: { ...unitParameters, first: 'u32' },
    bindings: { carried: storage('read', 'f32'), result: storage('read_write', 'f32') },
    declarations: stateAt(order),
    body: `${unitOfThread}
result[index] = carried[state_at(batch, 0u, 1u, channel) + (params.first + unit) * params.channels];`,
  }),
);

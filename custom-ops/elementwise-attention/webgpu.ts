import type { GpuRange, GpuRecorder } from '../runtime/web/gpu-recorder.js';
import { writeFloat32 } from '../runtime/web/narrow.wgsl.js';
import type { GpuTensor, WebGpuOperator } from '../runtime/web/operator.js';
import { type OptionalDims, ShapeChecks } from '../runtime/web/shapes.js';
import { type FloatType, THREADS } from '../runtime/web/wgsl.js';
import { exact, TILE_CHANNELS, TILE_ROWS } from './exact.wgsl.js';
import { type ElementwiseParameters, orderProblem, parametersOf } from './parameters.js';
import {
  absorb,
  attend,
  begin,
  CHUNK,
  joinRuns,
  means,
  present,
  ROWS,
  RUN,
  stateRows,
} from './series.wgsl.js';

const OP_TYPE = 'ElementwiseAttention';
const checks = new ShapeChecks(OP_TYPE);

/** B, N, S and X. */
interface ElementwiseSizes {
  readonly batch: number;
  readonly rows: number;
  readonly keys: number;
  readonly channels: number;
}

export const elementwiseAttention: WebGpuOperator = {
  opType: OP_TYPE,
  float32Outputs: new Set([1, 2]),

  refusal(attributes) {
    return orderProblem(parametersOf(attributes).order);
  },

  outputDims(attributes, inputDims) {
    const { order } = parametersOf(attributes);
    const { batch, rows, channels } = sizesOf(parametersOf(attributes), inputDims);
    const output = [batch, rows, channels];
    return order === 0 ? [output] : [output, [batch, 2, order + 1, channels], [batch, channels]];
  },

  record(recorder, attributes, inputs, outputs) {
    const parameters = parametersOf(attributes);
    const sizes = sizesOf(
      parameters,
      inputs.map(input => input?.dims ?? null),
    );
    if (sizes.batch * sizes.channels === 0) return;
    const [output = null, presentState = null, presentOffset = null] = outputs;
    const tokens = tokensOf(inputs);
    if (parameters.order === 0) {
      if (output) recordExact(recorder, sizes, parameters, tokens, output);
    } else {
      const past = inputs[4] && inputs[5] ? ([inputs[4].range, inputs[5].range] as const) : null;
      const call = new SeriesCall(recorder, sizes, parameters, tokens);
      call.record(past, output, { presentState, presentOffset });
    }
  },
};

type Inputs = readonly (GpuTensor | null)[];

/** Query, key, value and mask of one call. */
interface Tokens {
  readonly type: FloatType;
  readonly query: GpuRange;
  readonly key: GpuRange;
  readonly value: GpuRange;
  readonly mask: GpuRange | null;
}

function tokensOf([query, key, value, mask = null]: Inputs): Tokens {
  return {
    type: query!.type as FloatType,
    query: query!.range,
    key: key!.range,
    value: value!.range,
    mask: mask?.range ?? null,
  };
}

/** @throws InputError when the shapes do not fit together */
function sizesOf(
  { order, causal }: ElementwiseParameters,
  [query, key, value, mask, pastState, pastOffset]: readonly OptionalDims[],
): ElementwiseSizes {
  const [batch = 0, rows = 0, channels = 0] = checks.ranked(query, 'query', 3);
  const keys = checks.ranked(key, 'key', 3)[1]!;
  checks.expect(key, 'key', [batch, causal ? rows : keys, channels]);
  checks.expect(checks.ranked(value, 'value', 3), 'value', [batch, keys, channels]);
  checks.expect(mask, 'key_mask', [batch, keys]);
  if (!pastState !== !pastOffset) checks.refuse('past_state and past_offset come together or not at all');
  if (order === 0 && pastState) checks.refuse('order 0 has no finite state: past_state cannot be connected');
  checks.expect(pastState, 'past_state', [batch, 2, order + 1, channels]);
  checks.expect(pastOffset, 'past_offset', [batch, channels]);
  return { batch, rows, keys, channels };
}

const groupsOf = (threads: number): number => Math.ceil(threads / THREADS);

function recordExact(
  recorder: GpuRecorder,
  { batch, rows, keys, channels }: ElementwiseSizes,
  { causal }: ElementwiseParameters,
  { type, query, key, value, mask }: Tokens,
  output: GpuTensor,
): void {
  const row_tiles = Math.ceil(rows / TILE_ROWS);
  const channel_tiles = Math.ceil(channels / TILE_CHANNELS);
  writeFloat32(recorder, output, numbers =>
    recorder.dispatch(
      exact(type, mask !== null, causal),
      { channels, rows, keys, row_tiles, channel_tiles },
      { query, key, value, mask, output: numbers },
      batch * row_tiles * channel_tiles,
    ),
  );
}

/** One call with a Taylor order: the scan of series.wgsl.ts. */
class SeriesCall {
  readonly #chunks: number;
  /** The sums so far, [B, 1, rows of a state, X]. */
  readonly #carried: GpuRange;

  constructor(
    private readonly recorder: GpuRecorder,
    private readonly sizes: ElementwiseSizes,
    private readonly parameters: ElementwiseParameters,
    private readonly tokens: Tokens,
  ) {
    this.#chunks = Math.ceil(sizes.keys / CHUNK);
    this.#carried = this.#states('sums', 1);
  }

  record(
    past: readonly [state: GpuRange, offset: GpuRange] | null,
    output: GpuTensor | null,
    later: { readonly presentState: GpuTensor | null; readonly presentOffset: GpuTensor | null },
  ): void {
    const { order, causal } = this.parameters;
    const wide = this.#units(1);
    this.recorder.dispatch(
      begin(order, past !== null),
      wide,
      { carried: this.#carried, past_state: past?.[0] ?? null, past_offset: past?.[1] ?? null },
      groupsOf(wide.threads),
    );
    if (causal && this.#chunks <= 1) this.#write(output, numbers => this.#attend(numbers, null));
    else this.#scan(output);
    for (const [tensor, first, rows] of [
      [later.presentState, 0, stateRows(order) - 1],
      [later.presentOffset, stateRows(order) - 1, 1],
    ] as const) {
      if (tensor) this.#present(tensor, first, rows);
    }
    this.recorder.release(this.#carried);
  }

  /** Sums by chunk, then what comes before each, then outputs. Leaves the sums of everything in `#carried`. */
  #scan(output: GpuTensor | null): void {
    const { order, causal } = this.parameters;
    const runCount = Math.ceil(this.#chunks / RUN);
    const chunks = this.#states('sums of chunks', this.#chunks);
    const runs = this.#states('sums of runs', runCount);
    const { type, key, value, mask } = this.tokens;
    const units = this.#units(this.#chunks);
    this.recorder.dispatch(
      absorb(order, type, mask !== null),
      { ...units, tokens: this.sizes.keys },
      { chunks, key, value, mask },
      groupsOf(units.threads),
    );
    this.#join(chunks, this.#chunks, runs, runCount, RUN);
    this.#join(runs, runCount, this.#carried, 1, runCount);
    this.#write(output, numbers => {
      if (causal) this.#attend(numbers, { chunks, runs });
      else this.#means(numbers);
    });
    this.recorder.release(chunks);
    this.recorder.release(runs);
  }

  /** Joins `count` states in runs of `run`; those that end in `#carried` start with it. */
  #join(states: GpuRange, count: number, totals: GpuRange, runs: number, run: number): void {
    const units = this.#units(runs);
    this.recorder.dispatch(
      joinRuns(this.parameters.order, totals === this.#carried),
      { ...units, run, count },
      { states, totals },
      groupsOf(units.threads),
    );
  }

  /** @param before what comes before each chunk; null: there is one chunk, and `#carried` before it */
  #attend(output: GpuRange, before: { readonly chunks: GpuRange; readonly runs: GpuRange } | null): void {
    const { type, query, key, value, mask } = this.tokens;
    const units = this.#units(this.#chunks);
    this.recorder.dispatch(
      attend(this.parameters.order, type, mask !== null, before === null),
      { ...units, tokens: this.sizes.keys },
      {
        query,
        key,
        value,
        mask,
        output,
        carried: this.#carried,
        chunks: before?.chunks ?? null,
        runs: before?.runs ?? null,
      },
      groupsOf(units.threads),
    );
  }

  #means(output: GpuRange): void {
    const { rows } = this.sizes;
    const units = this.#units(Math.ceil(rows / ROWS));
    this.recorder.dispatch(
      means(this.parameters.order, this.tokens.type),
      { ...units, rows },
      { query: this.tokens.query, carried: this.#carried, output },
      groupsOf(units.threads),
    );
  }

  #present(tensor: GpuTensor, first: number, rows: number): void {
    const units = this.#units(rows);
    this.recorder.dispatch(
      present(this.parameters.order),
      { ...units, first },
      { carried: this.#carried, result: tensor.range },
      groupsOf(units.threads),
    );
  }

  #write(output: GpuTensor | null, write: (numbers: GpuRange) => void): void {
    if (output) writeFloat32(this.recorder, output, write);
  }

  #units(units: number): Readonly<Record<'channels' | 'units' | 'threads', number>> {
    const { batch, channels } = this.sizes;
    return { channels, units, threads: batch * units * channels };
  }

  #states(name: string, count: number): GpuRange {
    const { batch, channels } = this.sizes;
    const bytes = 4 * batch * count * stateRows(this.parameters.order) * channels;
    return this.recorder.scratch(`${name} of ${OP_TYPE}`, bytes);
  }
}
